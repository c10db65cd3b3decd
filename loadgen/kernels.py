"""Compiled loops of the sending path: grouping by key, markers, vectors for ``sendmmsg``, frames, lateness.

Columns of a block, one row per message: ``times_ns`` int64, ``keys`` int32, ``messages`` int32 (index into
the pool). A pool has ``offsets`` int64, ``lengths`` int32 and ``crcs`` uint32 per message. ``order`` int64 holds
rows of a batch grouped by key.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from loadgen.jit import kernel
from loadgen.marker import HEAD_BYTES, MARKER_BYTES, WIDTHS

Array = Any
"""A numpy array; numba infers the rest."""

CRC_TABLE = np.array([zlib.crc32(bytes([b]), 0xFFFFFFFF) ^ 0xFFFFFFFF for b in range(256)], dtype=np.uint32)
_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_WIDTHS = np.array(WIDTHS, dtype=np.int64)
_COLON, _SEMICOLON = ord(":"), ord(";")
_AT, _L, _G, _ONE = b"@LG1"
LATENESS_BUCKETS = 1920


@kernel
def group_by_key(keys: Array, first: int, last: int, starts: Array, order: Array) -> None:
    """Stable counting sort of rows ``first:last`` by key into ``order``.

    Args:
        starts: int64, shape ``(key_count + 1,)``; afterwards key ``k`` has ``order[starts[k]:starts[k + 1]]``.
        order: int64, at least ``last - first`` long.
    """
    starts[:] = 0
    for row in range(first, last):
        starts[keys[row] + 1] += 1
    for key in range(1, len(starts)):
        starts[key] += starts[key - 1]
    for row in range(first, last):
        key = keys[row]
        order[starts[key]] = row
        starts[key] += 1
    for key in range(len(starts) - 1, 0, -1):
        starts[key] = starts[key - 1]
    starts[0] = 0


@kernel
def _write_hex(memory: Array, position: int, width: int, value: int | np.int64) -> None:
    for digit in range(width - 1, -1, -1):
        memory[position + digit] = _DIGITS[value & 15]
        value >>= 4


@kernel
def _write_marker(
    memory: Array,
    start: int,
    run: int,
    key: int | np.int64,
    sequence: int,
    time_ns: int,
    length: int | np.int64,
    body_crc: int | np.int64,
) -> None:
    memory[start] = _AT
    memory[start + 1] = _L
    memory[start + 2] = _G
    memory[start + 3] = _ONE
    memory[start + 4] = _COLON
    position = start + 5
    fields = (run, key, sequence, time_ns, length)
    for field in range(5):
        width = _WIDTHS[field]
        _write_hex(memory, position, width, fields[field])
        memory[position + width] = _COLON
        position += width + 1
    crc = np.uint32(body_crc) ^ np.uint32(0xFFFFFFFF)
    for index in range(start, start + HEAD_BYTES):
        crc = CRC_TABLE[(crc ^ memory[index]) & 255] ^ (crc >> np.uint32(8))
    _write_hex(memory, position, 8, int(crc ^ np.uint32(0xFFFFFFFF)))
    memory[start + MARKER_BYTES - 1] = _SEMICOLON


@kernel
def stamp(
    block: tuple[Array, Array, Array],
    order: Array,
    count: int,
    pool: tuple[Array, Array, Array],
    sequences: Array,
    run: int,
    epoch_ns: int,
    memory: Array,
    positions: Array,
) -> None:
    """Write the marker of ``order[0:count]`` at ``memory[positions[i]]`` and count up ``sequences`` (int64 per key).

    Args:
        block: ``(times_ns, keys, messages)``.
        pool: ``(offsets, lengths, crcs)``.
        epoch_ns: wall clock at time zero of the block's times.
    """
    times_ns, keys, messages = block
    _, lengths, crcs = pool
    for index in range(count):
        row = order[index]
        key = keys[row]
        message = messages[row]
        _write_marker(
            memory,
            positions[index],
            run,
            np.int64(key),  # the fields are a tuple of one type
            sequences[key],
            epoch_ns + times_ns[row],
            np.int64(lengths[message]),
            np.int64(crcs[message]),
        )
        sequences[key] += 1


@kernel
def point(
    messages: Array, order: Array, count: int, pool: tuple[Array, Array, Array], base: int, vectors: Array, step: int
) -> int:
    """Let the last of each message's ``step`` vectors (``(address, bytes)`` uint64) show its body in the pool at
    address ``base``; returns the bytes of all bodies."""
    offsets, lengths, _ = pool
    total = 0
    for index in range(count):
        message = messages[order[index]]
        vector = index * step + step - 1
        vectors[vector, 0] = base + offsets[message]
        vectors[vector, 1] = lengths[message]
        total += lengths[message]
    return total


@kernel
def lay_out(
    messages: Array, order: Array, count: int, lengths: Array, before: int, marker: int, after: int, ends: Array
) -> int:
    """Where frames end when laid one behind the other: ``before + marker + body + after`` bytes each.

    Returns the bytes of all frames."""
    end = 0
    for index in range(count):
        end += before + marker + lengths[messages[order[index]]] + after
        ends[index] = end
    return end


@kernel
def frame(
    messages: Array,
    order: Array,
    count: int,
    pool: tuple[Array, Array, Array],
    bodies: Array,
    ends: Array,
    before: int,
    marker: int,
    after: int,
    memory: Array,
    positions: Array,
) -> None:
    """Copy bodies into their frames and write what delimits them: with ``before`` of 4 the big-endian length,
    with ``after`` of 1 a newline. ``positions`` receives where each marker belongs."""
    offsets, lengths, _ = pool
    start = 0
    for index in range(count):
        message = messages[order[index]]
        length = lengths[message]
        if before == 4:
            size = marker + length
            for byte in range(4):
                memory[start + byte] = (size >> (24 - 8 * byte)) & 255
        positions[index] = start + before
        body = start + before + marker
        memory[body : body + length] = bodies[offsets[message] : offsets[message] + length]
        if after == 1:
            memory[body + length] = 10
        start = ends[index]


@kernel
def count_lateness(buckets: Array, times_ns: Array, order: Array, first: int, last: int, now_ns: int) -> int:
    """Count how late ``order[first:last]`` are at ``now_ns`` into buckets of 1/32 octave; returns the largest."""
    worst = 0
    for index in range(first, last):
        late = max(now_ns - times_ns[order[index]], 0)
        worst = max(worst, late)
        shift = 0
        while (late >> shift) >= 64:
            shift += 1
        buckets[32 * shift + (late >> shift)] += 1
    return worst


@kernel
def pack_records(memory: Array, stride: int, lengths: Array, count: int, time_ns: int, output: Array) -> int:
    """Write ``count`` received datagrams, the i-th at ``memory[i * stride]``, as records of :mod:`loadgen.records`
    with key 0; returns the bytes written."""
    position = 0
    for index in range(count):
        length = int(lengths[index])
        for byte in range(8):
            output[position + byte] = (time_ns >> (8 * byte)) & 255
        for byte in range(4):
            output[position + 8 + byte] = 0
            output[position + 12 + byte] = (length >> (8 * byte)) & 255
        position += 16
        start = index * stride
        output[position : position + length] = memory[start : start + length]
        position += length
    return position
