"""The ring between dispatcher and learner."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.outcome import OUTCOME
from streamspec.profiles.outcome_ring import LEARNED, OutcomeRing


@pytest.fixture
def ring() -> Iterator[OutcomeRing]:
    one = OutcomeRing(8)
    yield one
    one.close()


def numbered(first: int, count: int) -> np.ndarray:
    rows = np.zeros(count, dtype=OUTCOME)
    rows["segment_id"] = np.arange(first, first + count)
    return rows


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40))
def test_each_row_that_fits_comes_out_once_and_in_order(steps: list[tuple[bool, int]]) -> None:
    ring = OutcomeRing(8)
    try:
        expected: list[int] = []
        given_out: list[int] = []
        next_id = 1
        for is_put, count in steps:
            if is_put:
                put = ring.put(numbered(next_id, count))
                assert put == min(count, 8 - (len(expected) - len(given_out)))
                expected += range(next_id, next_id + put)
                next_id += count
            else:
                given_out += ring.take(count)["segment_id"].tolist()
            assert ring.waiting == len(expected) - len(given_out)
        given_out += ring.take(8)["segment_id"].tolist()
        assert given_out == expected
    finally:
        ring.close()


def test_what_is_taken_stays_when_the_ring_goes_on(ring: OutcomeRing) -> None:
    ring.put(numbered(1, 8))
    taken = ring.take(3)
    ring.put(numbered(9, 3))
    assert taken["segment_id"].tolist() == [1, 2, 3]


def test_another_process_that_maps_it_goes_on_where_the_first_stopped(ring: OutcomeRing) -> None:
    ring.put(numbered(1, 6))
    first = OutcomeRing(8, fd=os.dup(ring.fd))
    first.take(4)
    first.counters[LEARNED] += 1
    first.close()
    assert ring.open_count == 3
    second = OutcomeRing(8, fd=os.dup(ring.fd))
    assert second.take(8)["segment_id"].tolist() == [5, 6]
    second.close()
