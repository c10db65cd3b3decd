"""The table of peers against a dictionary, and control messages of any bytes."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamspec.core.segment import HEADER
from streamspec.sources import udp_kernels as kernels
from streamspec.sources.udp_socket import CONTROL_BYTES, SO_RXQ_OVFL, SO_TIMESTAMPNS

SOL_SOCKET = 1
RECORDS = 16


def peer_of(number: int) -> tuple[int, int, int]:
    return (number % 3, number % 5, number)


@settings(deadline=None, max_examples=100)
@given(
    homes=st.lists(st.integers(0, 15), min_size=RECORDS, max_size=RECORDS),
    changes=st.lists(st.integers(0, RECORDS - 1), max_size=80),
)
def test_the_table_finds_what_is_in_it_whatever_collides(homes: list[int], changes: list[int]) -> None:
    """Sixteen records in a table of sixteen places but one, with homes given: chains wrap and run together."""
    book = np.zeros(1, dtype=kernels.BOOK)
    records = kernels.new_records(RECORDS, book)
    table = np.full(16, kernels.NOBODY, dtype=np.int32)
    present: set[int] = set()
    for number in range(RECORDS):
        records[number]["peer0"], records[number]["peer1"], records[number]["peer2"] = peer_of(number)
        records[number]["home"] = homes[number]
    for number in changes:
        if number in present:
            kernels.remove(records, table, number)
            present.remove(number)
        elif len(present) < 15:  # one place stays empty, or a search would not end
            kernels.insert(records, table, number)
            present.add(number)
        assert sorted(table[table != kernels.NOBODY].tolist()) == sorted(present)
        for place in np.flatnonzero(table != kernels.NOBODY).tolist():
            home = int(records["home"][table[place]])
            between = [(home + step) % 16 for step in range((place - home) % 16)]
            assert all(table[p] != kernels.NOBODY for p in between), "a gap hides an entry from its search"


@settings(deadline=None, max_examples=100)
@given(numbers=st.lists(st.integers(0, 60), max_size=80), seed=st.integers(0, 2**63 - 1))
def test_find_equals_a_dictionary(numbers: list[int], seed: int) -> None:
    book = np.zeros(1, dtype=kernels.BOOK)
    records = kernels.new_records(RECORDS, book)
    table = kernels.new_table(RECORDS)
    book["seed"] = seed
    headers = np.zeros(RECORDS, dtype=HEADER)
    offsets = np.arange(RECORDS, dtype=np.int64)
    closed = np.zeros(200, dtype=np.int32)
    plain: dict[tuple[int, int, int], int] = {}
    for number in numbers:
        peer = peer_of(number)
        assert kernels.find(records, table, peer, book["seed"][0]) == plain.get(peer, kernels.NOBODY)
        if peer in plain:
            kernels.close(headers, records, table, closed, book, plain.pop(peer))
        elif len(plain) < RECORDS:
            plain[peer] = kernels.open_segment(headers, offsets, records, table, book, 0, peer)
        assert int(book["open"][0]) == len(plain)
    oldest = list(plain.values())
    walked, index = [], int(book["oldest"][0])
    while index != kernels.NOBODY:
        walked.append(index)
        index = int(records["newer"][index])
    assert walked == oldest


def test_a_table_stays_at_most_a_quarter_full() -> None:
    for records in (1, 2, 3, 350, 1024):
        size = len(kernels.new_table(records))
        assert size >= 4 * records
        assert size & (size - 1) == 0


def test_peers_spread_over_the_table_for_any_seed() -> None:
    table = kernels.new_table(1000)
    for seed in (1, 2**63 - 1):
        homes = {kernels.home_of(table, (2 | port << 16, 0, 0), np.uint64(seed)) for port in range(1000)}
        assert len(homes) > 800  # 885 expected of 1000 thrown into 4096


def read(control: bytes, control_bytes: int) -> tuple[int, int]:
    controls = np.zeros((1, CONTROL_BYTES // 8), dtype=np.int64)
    controls.view(np.uint8)[0, : len(control)] = list(control)
    book = np.zeros(1, dtype=kernels.BOOK)
    timestamp_ns = kernels.read_control(controls, 0, control_bytes, book, -7)
    return timestamp_ns, int(book["socket_drops"][0])


def message(kind: int, content: bytes) -> bytes:
    length = 16 + len(content)
    return struct.pack("=Qii", length, SOL_SOCKET, kind) + content + bytes(-length % 8)


def test_control_messages_in_either_order() -> None:
    stamp = message(SO_TIMESTAMPNS, struct.pack("=qq", 12, 34))
    drops = message(SO_RXQ_OVFL, struct.pack("=I", 0xFFFFFFFE))
    for control in (stamp + drops, drops + stamp):
        assert read(control, len(control)) == (12_000_000_034, 0xFFFFFFFE)
    assert read(stamp, len(stamp)) == (12_000_000_034, 0)
    assert read(stamp + drops, 0) == (-7, 0)


@settings(deadline=None, max_examples=150)
@example(control=struct.pack("=Qii", 2**63 - 1, SOL_SOCKET, SO_TIMESTAMPNS) * 2, control_bytes=CONTROL_BYTES)
@example(control=struct.pack("=Qii", 16, SOL_SOCKET, SO_TIMESTAMPNS) * 4, control_bytes=CONTROL_BYTES)
@given(control=st.binary(max_size=CONTROL_BYTES), control_bytes=st.integers(0, CONTROL_BYTES))
def test_any_control_bytes_are_read_within_their_bounds(control: bytes, control_bytes: int) -> None:
    read(control, control_bytes)
