"""Compiled half of sinks that write frames: lines found, frames built, datagrams listed for one system call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import kernel

Offsets = npt.NDArray[np.uint32]
Words = npt.NDArray[np.uint64]

NEWLINE = 10
PREFIX_BYTES = 4
"""Big-endian length before each frame's body."""

_memchr: Any = types.ExternalFunction("memchr", types.uintp(types.uintp, types.intc, types.uintp))


@kernel
def find_lines(content: Bytes, starts: Offsets, sizes: Offsets) -> int:
    """Where the lines lie, without their newlines; returns how many there are. As many as fit are written,
    so that a call with empty arrays counts. A last line without newline is one too."""
    address = np.uintp(content.ctypes.data)
    position, count = 0, 0
    while position < content.shape[0]:
        rest = np.uintp(content.shape[0] - position)
        found = _memchr(address + np.uintp(position), np.int32(NEWLINE), rest)
        end = content.shape[0] if found == np.uintp(0) else int(np.int64(found - address))
        if count < starts.shape[0]:
            starts[count] = position
            sizes[count] = end - position
        count += 1
        position = end + 1
    return count


@kernel
def count_outside(starts: Offsets, sizes: Offsets, length: int) -> int:
    """How many pieces do not lie within ``length`` bytes."""
    outside = 0
    for i in range(starts.shape[0]):
        if np.int64(starts[i]) + np.int64(sizes[i]) > length:
            outside += 1
    return outside


@kernel
def write_frames(
    content: Bytes, starts: Offsets, sizes: Offsets, prefix: bool, newline: bool, out: Bytes, position: int
) -> int:
    """Copy the pieces of ``content`` to ``out`` from ``position`` on, each with its length before it or a newline
    behind it; returns the position behind them. ``out`` must have room and the pieces must fit."""
    for i in range(starts.shape[0]):
        start, size = int(np.int64(starts[i])), int(np.int64(sizes[i]))
        if prefix:
            out[position] = size >> 24 & 255
            out[position + 1] = size >> 16 & 255
            out[position + 2] = size >> 8 & 255
            out[position + 3] = size & 255
            position += PREFIX_BYTES
        out[position : position + size] = content[start : start + size]
        position += size
        if newline:
            out[position] = NEWLINE
            position += 1
    return position


@kernel
def list_datagrams(
    address: int,
    starts: Offsets,
    sizes: Offsets,
    first: int,
    largest_bytes: int,
    most_bytes: int,
    vectors: Words,
    counts: npt.NDArray[np.int64],
) -> int:
    """Enter pieces from ``first`` on into ``vectors`` (``struct iovec`` rows: address, size).

    Stops when they are full or hold ``most_bytes``, and returns the next piece. To ``counts`` are added: rows
    written, their bytes, and pieces left out because they exceed ``largest_bytes``.
    """
    for i in range(first, starts.shape[0]):
        size = np.int64(sizes[i])
        if size > largest_bytes:
            counts[2] += 1
            continue
        row = counts[0]
        if row == vectors.shape[0] or counts[1] >= most_bytes:
            return i
        vectors[row, 0] = np.uint64(address) + np.uint64(starts[i])
        vectors[row, 1] = np.uint64(size)
        counts[0] += 1
        counts[1] += size
    return len(starts)
