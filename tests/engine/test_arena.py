"""Slots do not overlap and come back."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.errors import ConfigError
from streamspec.core.segment import HEADER, OPEN, PACKET, SlotLayout
from streamspec.engine.arena import Arena

SIZES = st.builds(SlotLayout, st.integers(1, 5000), st.integers(1, 40), st.integers(0, 300), st.integers(0, 5000))


@given(SIZES, st.integers(2, 5))
@settings(deadline=None, max_examples=50)
def test_regions_hold_what_was_written_to_each(layout: SlotLayout, slots: int) -> None:
    arena = Arena(layout, slots)
    for slot in range(slots):
        arena.payload(slot)[:] = slot + 1
        arena.packets(slot)["offset"] = slot + 11
        arena.meta(slot)[:] = slot + 21
        arena.output(slot)[:] = slot + 31
        arena.headers["segment_id"][slot] = slot + 41
    for slot in range(slots):
        assert (arena.payload(slot) == slot + 1).all()
        assert (arena.packets(slot)["offset"] == slot + 11).all()
        assert (arena.meta(slot) == slot + 21).all()
        assert (arena.output(slot) == slot + 31).all()
        assert arena.headers["segment_id"][slot] == slot + 41
        assert len(arena.payload(slot)) == layout.payload_bytes
        assert len(arena.packets(slot)) == layout.packet_capacity
    arena.close()


def test_every_slot_is_given_once_and_comes_back() -> None:
    arena = Arena(SlotLayout(64, 1, 0, 0), 10)
    one = [arena.acquire() for _ in range(4)]
    many = arena.acquire_many(99)
    assert sorted([*one, *many.tolist()]) == list(range(10))
    assert arena.acquire() == -1
    assert len(arena.acquire_many(3)) == 0
    assert (arena.headers["state"] == OPEN).all()
    assert (arena.headers["variant"] == -1).all()
    arena.release_many(many)
    for slot in one:
        arena.release(slot)
    assert arena.free_slots == 10
    assert (arena.headers["state"] == 0).all()
    arena.close()


def test_a_slot_comes_back_empty() -> None:
    arena = Arena(SlotLayout(64, 1, 0, 0), 2)
    for acquire in (arena.acquire, lambda: int(arena.acquire_many(1)[0])):
        slot = acquire()
        arena.headers["length"][slot] = 5
        arena.headers["attempts"][slot] = 5
        arena.headers["key_hash"][slot] = 5
        arena.release(slot)
    slot = acquire()
    row = arena.headers[slot]
    assert (row["length"], row["attempts"], row["key_hash"]) == (0, 0, 0)
    del row
    arena.close()


def test_a_second_mapping_sees_the_same_memory() -> None:
    arena = Arena(SlotLayout(64, 1, 16, 16), 3)
    other = Arena(arena.layout, 3, fd=os.dup(arena.fd))
    arena.payload(1)[:3] = (1, 2, 3)
    assert other.payload(1)[:3].tolist() == [1, 2, 3]
    other.close()
    arena.close()


def test_sizes_fit_and_too_small_is_refused() -> None:
    layout = SlotLayout(1000, 4, 0, 100)
    slots = Arena.slots_within(layout, 1 << 20)
    assert slots * (layout.stride + HEADER.itemsize) <= 1 << 20
    with pytest.raises(ConfigError, match="arena_bytes"):
        Arena(layout, 1)
    assert PACKET.itemsize == 24
    assert np.dtype(HEADER).itemsize % 64 == 0
