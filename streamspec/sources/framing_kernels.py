"""Frames in a byte stream, found incrementally in the open slot's payload, one ``PACKET`` row each.

All scanners share one signature, so that a connection holds the one of its framing::

    scan(memory, words, base, table, capacity, position, searched, filled, row, max_frame_bytes, timestamp_ns)
        -> (row, position, needed)

``memory`` and ``words`` are the arena as ``uint8`` and as ``int64``; ``base`` is the byte offset of the payload
in it and ``table`` the index of the packet table's first word. Bytes ``position`` to ``filled`` of the payload
are not yet framed; those before ``searched`` are known to hold no end of frame. Rows are added from ``row``
on until the table holds ``capacity``. Returned are the next row, the first byte behind the last complete
frame, and how many bytes the frame that begins there needs at least, or :data:`TOO_LARGE`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import kernel
from streamspec.core.segment import PACKET

Words = npt.NDArray[np.int64]

TOO_LARGE = -1
"""Returned as ``needed``: the frame at ``position`` exceeds the limit."""

PREFIX_BYTES = 4
"""Big-endian length before each frame's body."""

NEWLINE = 10
ROW_WORDS = PACKET.itemsize // 8

# The C library's own search runs at vector speed; a compiled loop that may stop at any byte does not.
_memchr: Any = types.ExternalFunction("memchr", types.uintp(types.uintp, types.intc, types.uintp))


@kernel
def put_row(words: Words, index: int, timestamp_ns: int, offset: int, size: int) -> None:
    """Write one ``PACKET`` row as three words: time, offset and captured bytes, wire bytes and no flags."""
    words[index] = timestamp_ns
    words[index + 1] = np.int64(offset) | np.int64(size) << 32
    words[index + 2] = size


@kernel
def scan_length_frames(
    memory: Bytes,
    words: Words,
    base: int,
    table: int,
    capacity: int,
    position: int,
    searched: int,
    filled: int,
    row: int,
    max_frame_bytes: int,
    timestamp_ns: int,
) -> tuple[int, int, int]:
    """Frames of a 4-byte big-endian length and so many bytes; rows tell the bytes only."""
    while row < capacity and filled - position >= PREFIX_BYTES:
        at = base + position
        high = np.int64(memory[at]) << 24 | np.int64(memory[at + 1]) << 16
        size = int(high | np.int64(memory[at + 2]) << 8 | np.int64(memory[at + 3]))
        if size > max_frame_bytes:
            return row, position, TOO_LARGE
        if filled - position < PREFIX_BYTES + size:
            return row, position, PREFIX_BYTES + size
        put_row(words, table + row * ROW_WORDS, timestamp_ns, position + PREFIX_BYTES, size)
        row += 1
        position += PREFIX_BYTES + size
    return row, position, PREFIX_BYTES


@kernel
def scan_newline_frames(
    memory: Bytes,
    words: Words,
    base: int,
    table: int,
    capacity: int,
    position: int,
    searched: int,
    filled: int,
    row: int,
    max_frame_bytes: int,
    timestamp_ns: int,
) -> tuple[int, int, int]:
    """Lines; rows tell them without their newline."""
    start = np.uintp(memory.ctypes.data) + np.uintp(base)
    searched = max(searched, position)
    while row < capacity and searched < filled:
        found = _memchr(start + np.uintp(searched), np.int32(NEWLINE), np.uintp(filled - searched))
        if found == np.uintp(0):
            searched = filled
            break
        end = int(np.int64(found - start))
        if end - position > max_frame_bytes:
            return row, position, TOO_LARGE
        put_row(words, table + row * ROW_WORDS, timestamp_ns, position, end - position)
        row += 1
        position = end + 1
        searched = position
    if searched - position > max_frame_bytes:
        return row, position, TOO_LARGE
    return row, position, filled - position + 1


@kernel
def scan_chunks(
    memory: Bytes,
    words: Words,
    base: int,
    table: int,
    capacity: int,
    position: int,
    searched: int,
    filled: int,
    row: int,
    max_frame_bytes: int,
    timestamp_ns: int,
) -> tuple[int, int, int]:
    """What was read is a frame; cut where it exceeds the limit."""
    while row < capacity and position < filled:
        size = min(filled - position, max_frame_bytes)
        put_row(words, table + row * ROW_WORDS, timestamp_ns, position, size)
        row += 1
        position += size
    return row, position, 1
