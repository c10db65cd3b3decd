"""What every byte of a segment adds to the features, counted on a device: one block of threads for each segment.

Whole numbers only, the same that :mod:`~streamspec.profiler.histogram_kernels`, ``text_kernels`` and
``repetition_kernels`` count; what follows from them is computed by the CPU with the code that it always uses, so that
features are the same to the last bit. A block reads its segment in tiles, neighbouring threads neighbouring bytes;
then each thread looks at a stripe of its own. Runs that cross stripes are put together by one thread.

Imported only where there is a device (or numba's simulator of one).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamspec.links.cuda_kernels import cuda, device_function, device_kernel
from streamspec.profiler.repetition_kernels import GRAM_BYTES, GRAM_TABLE_BITS, PIECE_BYTES
from streamspec.profiler.text_kernels import ALPHANUMERIC_MINIMUM, BASE64_MINIMUM

THREADS = 256
STRIPE_BYTES = 32
STATS = 5
ALPHANUMERIC_LONGEST, ALPHANUMERIC_TOTAL, BASE64_LONGEST, BASE64_TOTAL, UTF8_ERRORS = range(STATS)

_BEFORE = 3  # bytes of the tile before, of which characters may go on
_AFTER = 3  # bytes of the next tile, into which 4-grams go on
_PADDED = 36  # a stripe in shared memory: nine words apart, threads meet no common bank
_TILE_BYTES = THREADS * _PADDED + 64
_TABLE_WORDS = 1 << GRAM_TABLE_BITS - 5
_STRIPES = THREADS * 2
_CARRIES = 2
_BINS = 512
_U1, _U2, _U3, _U5, _U8, _U16, _U24, _U31, _U32 = (np.uint64(n) for n in (1, 2, 3, 5, 8, 16, 24, 31, 32))
_MULTIPLIER = np.uint64(0x9E37_79B1)
_LOW_WORD = np.uint64(0xFFFF_FFFF)


@device_function
def _place(at: Any) -> Any:
    """Where byte ``at`` of the tile (from ``-_BEFORE``) lies in shared memory."""
    moved = at + _BEFORE
    return moved + moved // STRIPE_BYTES * (_PADDED - STRIPE_BYTES)


@device_function
def _alphanumeric(value: Any) -> Any:
    return (0x30 <= value <= 0x39) or (0x41 <= value <= 0x5A) or (0x61 <= value <= 0x7A)


@device_function
def _base64(value: Any) -> Any:
    return _alphanumeric(value) or value == 0x2B or value == 0x2F or value == 0x2D or value == 0x5F or value == 0x3D


@device_function
def _lead(value: Any, low: Any) -> Any:
    """The first byte of a character of UTF-8; ``low``: of at least so many bytes (0xC2: two, 0xE0: three, 0xF0)."""
    return low <= value <= 0xF4


@device_function
def _ill_formed(value: Any, one: Any, two: Any, three: Any) -> Any:
    """As ``text_kernels.well_formed``, for one byte and the three before it."""
    follow = 0x80 <= value <= 0xBF
    due = _lead(one, 0xC2) or _lead(two, 0xE0) or _lead(three, 0xF0)
    if due != follow or (value >= 0x80 and not follow and not _lead(value, 0xC2)):
        return True
    if one == 0xE0 or one == 0xED:
        return follow and (value <= 0x9F) == (one == 0xE0)
    return follow and (one == 0xF0 or one == 0xF4) and (value <= 0x8F) == (one == 0xF0)


@device_function
def _read_stripe(tile: Any, first: Any, count: Any, kind: Any, minimum: Any, stripes: Any, thread: Any) -> None:
    """Runs of one class in a stripe: how long at its beginning and end, and those within, longest and in all."""
    head = run = longest = total = 0
    whole = True
    for at in range(first, first + count):
        value = tile[_place(at)]
        inside = _alphanumeric(value) if kind == 0 else _base64(value)
        if inside:
            run += 1
        else:
            if whole:
                head, whole = run, False
            elif run >= minimum:
                longest = max(longest, run)
                total += run
            run = 0
    stripes[kind, 0, thread] = run if whole else head
    stripes[kind, 1, thread] = -1 if whole else run
    stripes[kind, 2, thread] = longest
    stripes[kind, 3, thread] = total


@device_function
def _join(stripes: Any, kind: Any, threads: Any, minimum: Any, carries: Any, stats: Any, row: Any) -> None:
    """Put the stripes of a tile together behind what was carried from the tile before."""
    carry, longest, total = carries[kind], stats[row, 2 * kind], stats[row, 2 * kind + 1]
    for stripe in range(threads):
        carry += stripes[kind, 0, stripe]
        if stripes[kind, 1, stripe] < 0:
            continue
        if carry >= minimum:
            longest = max(longest, carry)
            total += carry
        longest = max(longest, stripes[kind, 2, stripe])
        total += stripes[kind, 3, stripe]
        carry = stripes[kind, 1, stripe]
    carries[kind] = carry
    stats[row, 2 * kind], stats[row, 2 * kind + 1] = longest, total


@device_function
def _table_bits(grams: Any) -> Any:
    """As ``repetition_kernels.gram_table_bits``."""
    bits = 10
    while bits < GRAM_TABLE_BITS and (1 << bits) < 2 * grams:
        bits += 1
    return bits


@device_function
def _gram_bit(tile: Any, at: Any, bits: Any) -> Any:
    """The bit of a table that stands for the four bytes from ``at``."""
    word = np.uint64(tile[_place(at)]) | np.uint64(tile[_place(at + 1)]) << _U8
    word |= np.uint64(tile[_place(at + 2)]) << _U16 | np.uint64(tile[_place(at + 3)]) << _U24
    return (word * _MULTIPLIER & _LOW_WORD) >> (_U32 - np.uint64(bits))


@device_function
def _load(words: Any, start: Any, length: Any, base: Any, width: Any, tile: Any) -> None:
    """Fill a tile, and what lies around it, with whole words of the memory; zeros outside of the segment."""
    low, high = base - _BEFORE, base + width + _AFTER
    first = (start + low) >> 2
    for word in range(first + cuda.threadIdx.x, (start + high + 3) >> 2, cuda.blockDim.x):
        at = (word << 2) - start
        value = words[word] if at + 4 > 0 and at < length else 0
        for byte in range(4):
            here = at + byte
            if low <= here < high:
                tile[_place(here - base)] = (value >> (8 * byte)) & 255 if 0 <= here < length else 0


@device_function
def _tally(tile: Any, first: Any, count: Any, base: Any, piece_end: Any, bits: Any, bins: Any, table: Any) -> Any:
    """Count the bytes of a stripe, their differences and 4-grams; returns the errors of UTF-8."""
    errors = 0
    for at in range(first, first + count):
        value, one = tile[_place(at)], tile[_place(at - 1)]
        cuda.atomic.add(bins, value, 1)
        if base + at > 0:
            cuda.atomic.add(bins, 256 + ((256 + np.int64(value) - np.int64(one)) & 255), 1)
        if _ill_formed(value, one, tile[_place(at - 2)], tile[_place(at - 3)]):
            errors += 1
        if base + at + GRAM_BYTES <= piece_end:
            bit = _gram_bit(tile, at, bits)
            cuda.atomic.or_(table, np.int64(bit >> _U5), np.uint32(_U1 << (bit & _U31)))
    return errors


@device_function
def _take_table(table: Any) -> Any:
    """Entries in use in this thread's share of the table, which is cleared."""
    used = 0
    for at in range(cuda.threadIdx.x, _TABLE_WORDS, cuda.blockDim.x):
        used += cuda.popc(table[at])
        table[at] = 0
    return used


@device_function
def _end_run(carry: Any, kind: Any, minimum: Any, stats: Any, row: Any) -> None:
    """Count the run that reaches the end of the segment."""
    if carry >= minimum:
        stats[row, 2 * kind] = max(stats[row, 2 * kind], carry)
        stats[row, 2 * kind + 1] += carry


@device_function
def _begins_within(tile: Any, length: Any) -> Any:
    """Continuation bytes that the segment begins with, up to three: it may begin within a character."""
    inside = 0
    while inside < min(length, 4) and 0x80 <= tile[_place(inside)] <= 0xBF:
        inside += 1
    return inside if inside <= 3 else 0


def _count(words: Any, starts: Any, lengths: Any, counts: Any, stats: Any, marked: Any) -> None:
    """Count the segments, ``lengths[i]`` bytes from byte ``starts[i]``, one a block.

    Args:
        words: the memory as ``uint32``.
        counts: ``uint32 (n, 512)``: bytes by value, then differences by value; filled.
        stats: ``int64 (n, STATS)``; zeros before.
        marked: ``int32 (n, pieces)``: entries of the table of 4-grams that are in use, for each piece; zeros before.
    """
    tile = cuda.shared.array(_TILE_BYTES, np.uint8)
    bins = cuda.shared.array(_BINS, np.uint32)
    table = cuda.shared.array(_TABLE_WORDS, np.uint32)
    stripes = cuda.shared.array((2, 4, THREADS), np.int32)
    carries = cuda.shared.array(_CARRIES, np.int64)
    row, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    start, length = starts[row], lengths[row]
    for at in range(thread, _BINS, threads):
        bins[at] = 0
    for at in range(thread, _TABLE_WORDS, threads):
        table[at] = 0
    if thread < _CARRIES:
        carries[thread] = 0
    width = threads * STRIPE_BYTES
    errors = 0
    for base in range(0, length, width):
        cuda.syncthreads()
        _load(words, start, length, base, width, tile)
        cuda.syncthreads()
        first = thread * STRIPE_BYTES
        here = min(max(length - base - first, 0), STRIPE_BYTES)
        piece = base // PIECE_BYTES
        piece_end = min((piece + 1) * PIECE_BYTES, length)
        bits = _table_bits(piece_end - piece * PIECE_BYTES)
        errors += _tally(tile, first, here, base, piece_end, bits, bins, table)
        _read_stripe(tile, first, here, 0, ALPHANUMERIC_MINIMUM, stripes, thread)
        _read_stripe(tile, first, here, 1, BASE64_MINIMUM, stripes, thread)
        cuda.syncthreads()
        if thread == 0:
            _join(stripes, 0, threads, ALPHANUMERIC_MINIMUM, carries, stats, row)
            errors -= _begins_within(tile, length) if base == 0 else 0
        if thread == threads - 1:
            _join(stripes, 1, threads, BASE64_MINIMUM, carries, stats, row)
        if base + width >= piece_end:  # a piece is a whole number of tiles
            cuda.atomic.add(marked, (row, piece), _take_table(table))
    cuda.atomic.add(stats, (row, UTF8_ERRORS), errors)
    cuda.syncthreads()
    for at in range(thread, _BINS, threads):
        counts[row, at] = bins[at]
    if thread == 0:
        _end_run(carries[0], 0, ALPHANUMERIC_MINIMUM, stats, row)
        _end_run(carries[1], 1, BASE64_MINIMUM, stats, row)


count: Any = device_kernel(_count)
"""Launch with one block for each segment and a power of two of at most ``THREADS`` threads."""
