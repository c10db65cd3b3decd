"""Histograms of bytes and of their differences, and everything that follows from them without looking again.

Each histogram is counted in four interleaved tables: neighbouring equal bytes would otherwise wait for each
other's store. Differences are taken eight at a time in one 64-bit word.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_INDEX, HISTOGRAM_BINS
from streamspec.core.interfaces import Bytes
from streamspec.core.jit import lean_kernel
from streamspec.profiler.vector import load_u64, to_int

Tallies = npt.NDArray[np.uint32]
Row = npt.NDArray[np.float32]

TALLIES = 2 * 4 * 256
"""Length of the scratch: four tables of bytes, then four of differences."""

COUNTS = 2 * 256
"""Length of the result: counts of bytes, then of differences."""

SEPARATORS = b" \t,;|=&"
STRUCTURAL = b'{}[]":,'

_ONE = np.uint32(1)
_LOW_BYTE = np.uint64(0xFF)
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)
_OTHER_BITS = np.uint64(0x7F7F_7F7F_7F7F_7F7F)

_TABULATED = 512
_FRACTION = 2.0**32
_counts = np.arange(_TABULATED, dtype=np.float64)
_COUNT_LOG = np.round(_counts * np.log2(np.maximum(_counts, 1)) * _FRACTION).astype(np.int64)
"""``c * log2(c)`` for small counts, most bins of most segments, in units of 2**-32: whole numbers may be added in
any order, so that the sum needs not wait for one addition after the other."""

(
    _ENTROPY,
    _DIFFERENCE_ENTROPY,
    _MINIMUM,
    _MAXIMUM,
    _MEAN,
    _VARIANCE,
    _DISTINCT,
    _TOP,
    _BINS,
    _ZERO,
    _PRINTABLE,
    _DIGIT,
    _UPPER,
    _LOWER,
    _NEWLINE,
    _SEPARATOR,
    _STRUCTURAL,
) = (
    FEATURE_INDEX[name]
    for name in (
        "entropy_bits",
        "difference_entropy_bits",
        "minimum",
        "maximum",
        "mean",
        "variance",
        "distinct_values",
        "top_share",
        "bin_00_share",
        "zero_share",
        "printable_share",
        "digit_share",
        "upper_share",
        "lower_share",
        "newline_share",
        "separator_share",
        "structural_share",
    )
)


@lean_kernel
def _tally_word(tallies: Tallies, word: np.uint64, table: int) -> None:
    """Count the eight bytes of ``word`` in the four tables from ``table`` on."""
    tallies[np.uint64(table) + (word & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table + 256) + (word >> np.uint64(8) & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table + 512) + (word >> np.uint64(16) & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table + 768) + (word >> np.uint64(24) & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table) + (word >> np.uint64(32) & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table + 256) + (word >> np.uint64(40) & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table + 512) + (word >> np.uint64(48) & _LOW_BYTE)] += _ONE
    tallies[np.uint64(table + 768) + (word >> np.uint64(56))] += _ONE


@lean_kernel
def _differences(word: np.uint64, previous: np.uint64) -> np.uint64:
    """Byte by byte, without a borrow from one byte to the next (Warren, Hacker's Delight, 2-18)."""
    return ((word | _HIGH_BITS) - (previous & _OTHER_BITS)) ^ ((word ^ ~previous) & _HIGH_BITS)


@lean_kernel
def tally(memory: Bytes, start: int, end: int, has_previous: bool, tallies: Tallies) -> None:
    """Add the bytes ``start`` to ``end`` and their differences (mod 256) from the byte before.

    ``has_previous``: the byte at ``start - 1`` belongs to the segment too; otherwise the first byte has no
    difference.
    """
    at = start
    if not has_previous and at < end:
        tallies[np.uint64(memory[at])] += _ONE
        at += 1
    while at + 8 <= end:
        word = load_u64(memory, at)
        _tally_word(tallies, word, 0)
        _tally_word(tallies, _differences(word, load_u64(memory, at - 1)), 1024)
        at += 8
    while at < end:
        tallies[np.uint64(memory[at])] += _ONE
        tallies[np.uint64(1024) + ((np.uint64(memory[at]) - np.uint64(memory[at - 1])) & _LOW_BYTE)] += _ONE
        at += 1


@lean_kernel
def tally_block(memory: Bytes, start: int, end: int, has_previous: bool, tallies: Tallies) -> int:
    """As :func:`tally`, for a sampled block of a multiple of 16 bytes, with the differences of the first eight bytes
    in each sixteen only: counting is what takes the time. Returns how many differences were counted."""
    first = start
    if not has_previous:
        tally(memory, start, start + 8, False, tallies)
        _tally_word(tallies, load_u64(memory, start + 8), 0)
        first += 16
    for at in range(first, end, 16):
        word = load_u64(memory, at)
        _tally_word(tallies, word, 0)
        _tally_word(tallies, _differences(word, load_u64(memory, at - 1)), 1024)
        _tally_word(tallies, load_u64(memory, at + 8), 0)
    return (end - start) // 2 - (not has_previous)


@lean_kernel
def gather(tallies: Tallies, counts: Tallies) -> None:
    """Sum the four tables of each kind into ``counts`` and clear them for the next segment."""
    for value in range(256):
        counts[value] = tallies[value] + tallies[value + 256] + tallies[value + 512] + tallies[value + 768]
    for value in range(1024, 1280):
        counts[value - 768] = tallies[value] + tallies[value + 256] + tallies[value + 512] + tallies[value + 768]
    tallies[:] = 0


@lean_kernel
def entropy_bits(counts: Tallies, first: int, total: int, sampled: bool) -> float:
    """Shannon entropy of the 256 counts from ``first``, which sum to ``total``, in bits: 0 to 8.

    ``sampled`` adds the correction of Miller and Madow, ``(distinct - 1) / (2 n ln 2)``.
    """
    if total <= 0:
        return 0.0
    small = distinct = largest = to_int(0)
    for value in range(first, first + 256):
        count = to_int(counts[value])
        distinct += count > 0
        largest = max(largest, count)
        small += _COUNT_LOG[np.uint64(min(count, _TABULATED - 1))]
    log_sum: float = small / _FRACTION
    if largest >= _TABULATED:
        limit = _COUNT_LOG[_TABULATED - 1] / _FRACTION
        for value in range(first, first + 256):
            count = to_int(counts[value])
            if count >= _TABULATED:
                log_sum += count * math.log2(count) - limit
    entropy: float = math.log2(total) - log_sum / total
    if sampled:
        entropy += (distinct - 1) / (2 * math.log(2.0) * total)
    return min(max(entropy, 0.0), 8.0)


@lean_kernel
def _between(counts: Tallies, low: int, high: int) -> int:
    total = 0
    for value in range(low, high + 1):
        total += to_int(counts[value])
    return total


@lean_kernel
def describe_moments(counts: Tallies, total: int, out: Row, row: int) -> None:
    """Smallest, largest, mean, variance, distinct values and share of the most frequent."""
    first = second = to_int(0)
    for value in range(256):
        count = to_int(counts[value])
        first += count * value
        second += count * (value * value)
    distinct = top = to_int(0)
    for value in range(256):  # apart from the sums: each loop is vectorised, both in one are not
        count = to_int(counts[value])
        distinct += count > 0
        top = max(top, count)
    low = 0
    while counts[low] == 0:
        low += 1
    high = 255
    while counts[high] == 0:
        high -= 1
    mean = first / total
    out[row, _MINIMUM] = low
    out[row, _MAXIMUM] = high
    out[row, _MEAN] = mean
    out[row, _VARIANCE] = max(second / total - mean * mean, 0.0)
    out[row, _DISTINCT] = distinct
    out[row, _TOP] = top / total


@lean_kernel
def describe_shares(counts: Tallies, total: int, out: Row, row: int) -> None:
    """The sixteen bins and the shares of the classes of characters."""
    scale = 1.0 / total
    for index in range(HISTOGRAM_BINS):
        out[row, _BINS + index] = _between(counts, index * 16, index * 16 + 15) * scale
    out[row, _ZERO] = counts[0] * scale
    out[row, _PRINTABLE] = _between(counts, 0x20, 0x7E) * scale
    out[row, _DIGIT] = _between(counts, 0x30, 0x39) * scale
    out[row, _UPPER] = _between(counts, 0x41, 0x5A) * scale
    out[row, _LOWER] = _between(counts, 0x61, 0x7A) * scale
    out[row, _NEWLINE] = (to_int(counts[0x0A]) + to_int(counts[0x0D])) * scale
    separators = to_int(counts[0x20]) + to_int(counts[0x09]) + to_int(counts[0x2C]) + to_int(counts[0x3B])
    separators += to_int(counts[0x7C]) + to_int(counts[0x3D]) + to_int(counts[0x26])
    out[row, _SEPARATOR] = separators * scale
    structural = to_int(counts[0x7B]) + to_int(counts[0x7D]) + to_int(counts[0x5B]) + to_int(counts[0x5D])
    structural += to_int(counts[0x22]) + to_int(counts[0x3A]) + to_int(counts[0x2C])
    out[row, _STRUCTURAL] = structural * scale


@lean_kernel
def describe(counts: Tallies, total: int, differences: int, sampled: bool, out: Row, row: int) -> None:
    """All columns that follow from the histograms of ``total`` bytes and ``differences`` differences."""
    out[row, _ENTROPY] = entropy_bits(counts, 0, total, sampled)
    out[row, _DIFFERENCE_ENTROPY] = entropy_bits(counts, 256, differences, sampled)
    describe_moments(counts, total, out, row)
    describe_shares(counts, total, out, row)
