"""How much a segment repeats itself: estimates of what a compressor would find, without compressing.

- **4-grams**: each sequence of four bytes is marked in a table by its hash; the share that was marked before is
  what repeats. The table is counted at the end (linear counting, Whang et al., 1990, corrects for hashes that
  collide), so no step depends on the one before. Long segments are counted in pieces of 64 KiB, as a
  compressor's window would.
- **Matches**: over a few hundred bytes, which of them a compressor such as LZ4 would copy, and in how many pieces.
- **Period**: at which distance of 2 to 64 bytes equal bytes follow each other more often than at others, as in
  tables of numbers and records of a fixed size.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler.vector import (
    ALL,
    CHUNK,
    NONE,
    Mask,
    count_ones,
    equal_mask,
    load_u32,
    same_mask,
    to_int,
)

Recent = npt.NDArray[np.int32]
Lags = npt.NDArray[np.int64]

GRAM_BYTES = 4
PIECE_BYTES = 65536
"""4-grams are counted within pieces of so many bytes."""
GRAM_TABLE_BITS = 15
"""Largest table: 32 KiB, half as many entries as the longest piece has 4-grams."""

MATCH_WINDOWS = 2
MATCH_WINDOW_BYTES = 256
MATCH_TABLE_BITS = 10
MATCH_COST = 3
"""Bytes that a match costs in LZ4's format: token and offset."""

PERIOD_WINDOW_BYTES = 256
LOWEST_LAG, HIGHEST_LAG = 2, 64
WEAKEST_PERIOD = 0.1
"""Below this a lag is not better than chance, and none is reported."""
NEAR_BEST = 0.9
"""The smallest lag within this share of the best wins, since multiples of a period fit as well."""

_MULTIPLIER = np.uint64(0x9E37_79B1)  # 2**32 / golden ratio, prime: Knuth's multiplicative hash
_LOW_WORD = np.uint64(0xFFFF_FFFF)
_MARK = np.uint8(1)
_U1, _U2, _U3, _U61, _U62, _U63 = (np.uint64(shift) for shift in (1, 2, 3, 61, 62, 63))


@lean_kernel
def gram_table_bits(grams: int) -> int:
    """Size of the table for so many 4-grams, as a power of two: at least twice as many, within 2**10 and 2**15."""
    bits = 10
    while bits < GRAM_TABLE_BITS and (1 << bits) < 2 * grams:
        bits += 1
    return bits


@lean_kernel
def mark_grams(memory: Bytes, start: int, end: int, bits: int, table: Bytes) -> int:
    """Mark each 4-gram of the bytes ``start`` to ``end``; returns how many there are."""
    shift = np.uint64(32 - bits)
    for at in range(start, end - GRAM_BYTES + 1):
        hashed = np.uint64(load_u32(memory, at)) * _MULTIPLIER & _LOW_WORD
        table[hashed >> shift] = _MARK
    return max(end - start - GRAM_BYTES + 1, 0)


@lean_kernel
def count_new_grams(bits: int, grams: int, table: Bytes) -> float:
    """How many different 4-grams were marked, of ``grams``; clears the table."""
    size = 1 << bits
    marked = 0
    for at in range(0, size, CHUNK):
        marked += count_ones(equal_mask(table, at, _MARK))
    table[:size] = 0
    empty = max(size - marked, 0.5)
    return min(size * math.log(size / empty), float(grams))


@lean_kernel
def whole_repetition(memory: Bytes, start: int, length: int, table: Bytes) -> float:
    """Share of repeated 4-grams over all bytes, in pieces of :data:`PIECE_BYTES`; 0 to 1."""
    grams = 0
    fresh = 0.0
    for piece in range(0, length, PIECE_BYTES):
        end = min(piece + PIECE_BYTES, length)
        bits = gram_table_bits(end - piece)
        marked = mark_grams(memory, start + piece, start + end, bits, table)
        fresh += count_new_grams(bits, marked, table)
        grams += marked
    return 1.0 - fresh / grams if grams else 0.0


@lean_kernel
def _matches(memory: Bytes, start: int, at: int, end: int, recent: Recent) -> Mask:
    """Which of the 4-grams that begin in bytes ``at`` to ``end`` (64 at most) equal the last one with their hash.

    Free of branches, so that no input makes it slower. ``recent`` holds ``position - start`` by hash, 0 at first: an
    empty entry is compared with the segment's first bytes, and a true match there is a match all the same.
    """
    shift = np.uint64(32 - MATCH_TABLE_BITS)
    found = NONE
    for bit in range(end - at):
        position = at + bit
        word = load_u32(memory, position)
        slot = (np.uint64(word) * _MULTIPLIER & _LOW_WORD) >> shift
        candidate = to_int(recent[slot])
        recent[slot] = position - start
        same = (load_u32(memory, start + candidate) == word) & (candidate < position - start)
        found |= np.uint64(same) << np.uint64(bit)
    return found


@lean_kernel
def match_ratio(memory: Bytes, start: int, length: int, recent: Recent) -> float:
    """Output by input of a compressor that copies every repeated 4-gram of the bytes probed: 0 to 1.

    A byte that no repeated 4-gram covers costs itself, each stretch of covered bytes :data:`MATCH_COST`. Reads the
    whole segment up to ``MATCH_WINDOWS * MATCH_WINDOW_BYTES``, else windows spread evenly over it.
    """
    windows = MATCH_WINDOWS if length > MATCH_WINDOWS * MATCH_WINDOW_BYTES else 1
    size = MATCH_WINDOW_BYTES if windows > 1 else length
    if size < GRAM_BYTES:
        return 1.0 if length else 0.0
    recent[:] = 0
    cost = 0
    for window in range(windows):
        first = start + (2 * window + 1) * (length - size) // (2 * windows)
        last = first + size - GRAM_BYTES + 1  # one past the last 4-gram
        carry = NONE  # bytes of this chunk that a match of the chunk before covers
        covered_before = False
        at = first
        while at < first + size:
            found = _matches(memory, start, at, min(at + CHUNK, last), recent)
            covered = found | found << _U1 | found << _U2 | found << _U3 | carry
            present = ALL >> np.uint64(CHUNK - min(first + size - at, CHUNK))
            begins = covered & ~(covered << _U1 | np.uint64(covered_before))
            cost += count_ones(~covered & present) + MATCH_COST * count_ones(begins)
            carry = found >> _U61 | found >> _U62 | found >> _U63
            covered_before = bool(covered >> _U63)
            at += CHUNK
    return min(cost / (windows * size), 1.0)


@lean_kernel
def period(memory: Bytes, start: int, length: int, lags: Lags) -> tuple[int, float]:
    """The best lag and its strength, ``(matches - mean) / (bytes - mean)`` where the mean is over all lags.

    Reads :data:`PERIOD_WINDOW_BYTES` in the middle of the segment; needs 128 bytes, else ``(0, 0.0)``.
    ``lags`` is scratch of 65.
    """
    window = min(length, PERIOD_WINDOW_BYTES + HIGHEST_LAG)
    compared = (window - HIGHEST_LAG) // CHUNK * CHUNK
    if compared <= 0:
        return 0, 0.0
    first = start + (length - window) // 2
    total = 0
    best = 0
    for lag in range(LOWEST_LAG, HIGHEST_LAG + 1):
        same = 0
        for at in range(first, first + compared, CHUNK):
            same += count_ones(same_mask(memory, at, at + lag))
        lags[lag] = same
        total += same
        best = max(best, same)
    mean = total / (HIGHEST_LAG - LOWEST_LAG + 1)
    if best <= mean:
        return 0, 0.0
    strength = (best - mean) / (compared - mean)
    if strength < WEAKEST_PERIOD:
        return 0, strength
    for lag in range(LOWEST_LAG, HIGHEST_LAG + 1):
        if lags[lag] - mean >= NEAR_BEST * (best - mean):
            return lag, strength
    return 0, strength
