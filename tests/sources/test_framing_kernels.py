"""The framing kernels against plain Python forms of the same."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.segment import PACKET
from streamspec.sources.framing_kernels import TOO_LARGE, scan_chunks, scan_length_frames, scan_newline_frames
from streamspec.sources.tcp_reception import SCANNERS, Framing

BASE, TABLE, SIZE = 128, 1024, 4096  # bytes: payload, packet table, whole memory
LIMIT = 40
Found = tuple[list[tuple[int, int]], int, int]


def by_kernel(framing: Framing, stream: bytes, capacity: int, *, start: int = 0, searched: int = 0) -> Found:
    memory = np.zeros(SIZE, dtype=np.uint8)
    memory[BASE : BASE + len(stream)] = np.frombuffer(stream, dtype=np.uint8)
    memory[BASE + len(stream) : TABLE] = 10  # what lies behind must not be looked at
    row, position, needed = SCANNERS[framing](
        memory, memory.view(np.int64), BASE, TABLE // 8, capacity, start, searched, len(stream), 0, LIMIT, 77
    )
    rows = memory[TABLE : TABLE + row * PACKET.itemsize].view(PACKET)
    assert not memory[TABLE + row * PACKET.itemsize :].any()
    assert (rows["timestamp_ns"] == 77).all()
    assert (rows["wire_bytes"] == rows["captured_bytes"]).all()
    assert not rows["flags"].any()
    return list(zip(rows["offset"].tolist(), rows["captured_bytes"].tolist(), strict=True)), position, needed


def by_length(stream: bytes, capacity: int) -> Found:
    rows: list[tuple[int, int]] = []
    position = 0
    while len(rows) < capacity and len(stream) - position >= 4:
        (size,) = struct.unpack_from(">I", stream, position)
        if size > LIMIT:
            return rows, position, TOO_LARGE
        if len(stream) < position + 4 + size:
            return rows, position, 4 + size
        rows.append((position + 4, size))
        position += 4 + size
    return rows, position, 4


def by_newline(stream: bytes, capacity: int) -> Found:
    rows: list[tuple[int, int]] = []
    position = 0
    while len(rows) < capacity:
        end = stream.find(b"\n", position)
        if max(end, 0 if end >= 0 else len(stream)) - position > LIMIT:
            return rows, position, TOO_LARGE
        if end < 0:
            break
        rows.append((position, end - position))
        position = end + 1
    return rows, position, len(stream) - position + 1


lengths = st.lists(
    st.one_of(st.binary(max_size=60).map(lambda b: struct.pack(">I", len(b)) + b), st.binary(max_size=6))
)
lines = st.lists(st.one_of(st.binary(max_size=60), st.just(b"\n"), st.binary(max_size=30).map(lambda b: b + b"\n")))


@settings(deadline=None, max_examples=150)
@given(lengths.map(lambda parts: b"".join(parts)[:800]), st.integers(1, 12))
def test_length_frames_equal_their_plain_form(stream: bytes, capacity: int) -> None:
    assert by_kernel("length", stream, capacity) == by_length(stream, capacity)


@settings(deadline=None, max_examples=150)
@given(lines.map(lambda parts: b"".join(parts)[:800]), st.integers(1, 12))
def test_newline_frames_equal_their_plain_form(stream: bytes, capacity: int) -> None:
    assert by_kernel("newline", stream, capacity) == by_newline(stream, capacity)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300), st.integers(1, 12))
def test_chunks_are_cut_at_the_limit(stream: bytes, capacity: int) -> None:
    starts = list(range(0, len(stream), LIMIT))[:capacity]
    rows = [(start, min(LIMIT, len(stream) - start)) for start in starts]
    assert by_kernel("chunks", stream, capacity) == (rows, sum(size for _, size in rows), 1)


def test_a_line_is_searched_from_where_the_last_search_ended() -> None:
    assert by_kernel("newline", b"a\nbcd\n", 9, start=2, searched=5) == ([(2, 3)], 6, 1)
    assert by_kernel("newline", b"a\nb\nd\n", 9, start=2, searched=4) == ([(2, 3)], 6, 1)  # not looked at again


@pytest.mark.parametrize("prefix", [LIMIT + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_length_above_the_limit_is_told_at_once(prefix: int) -> None:
    assert by_kernel("length", struct.pack(">I", 1) + b"x" + struct.pack(">I", prefix), 9) == ([(4, 1)], 5, TOO_LARGE)


@pytest.mark.parametrize("scan", [scan_length_frames, scan_newline_frames, scan_chunks])
def test_the_compiled_form_is_what_is_tested(scan: object) -> None:
    assert hasattr(scan, "nopython_signatures")
