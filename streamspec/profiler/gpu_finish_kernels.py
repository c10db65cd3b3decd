"""From what a device has counted to features, with the code that the CPU always uses."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_INDEX
from streamspec.core.interfaces import Bytes, Counts
from streamspec.core.jit import lean_kernel
from streamspec.profiler.histogram_kernels import Row, Tallies, describe
from streamspec.profiler.kernels import Scratch
from streamspec.profiler.repetition_kernels import (
    GRAM_BYTES,
    PIECE_BYTES,
    gram_table_bits,
    match_ratio,
    period,
)
from streamspec.profiler.types import segment_type

Marks = npt.NDArray[np.int32]
AllTallies = npt.NDArray[np.uint32]

# As the device's kernels order them; those are imported only where there is a device.
_ALPHANUMERIC_LONGEST, _ALPHANUMERIC_TOTAL, _BASE64_LONGEST, _BASE64_TOTAL, _UTF8_ERRORS = range(5)
(
    _LENGTH,
    _PACKETS,
    _BASE64,
    _BASE64_SHARE,
    _ALPHANUMERIC,
    _ALPHANUMERIC_SHARE,
    _UTF8,
    _REPETITION,
    _MATCH_RATIO,
    _PERIOD,
    _PERIOD_SHARE,
    _TYPE,
) = (
    FEATURE_INDEX[name]
    for name in (
        "length_bytes",
        "packets",
        "base64_longest_bytes",
        "base64_run_share",
        "alphanumeric_longest_bytes",
        "alphanumeric_run_share",
        "utf8_valid_share",
        "repetition_share",
        "lz_ratio",
        "period_bytes",
        "period_share",
        "type_code",
    )
)


@lean_kernel
def _repetition(length: int, marked: Marks, row: int) -> float:
    """As ``whole_repetition``, of tables that are counted already."""
    grams = 0
    fresh = 0.0
    for piece in range(0, length, PIECE_BYTES):
        size = min(PIECE_BYTES, length - piece)
        entries = 1 << gram_table_bits(size)
        here = max(size - GRAM_BYTES + 1, 0)
        empty = max(entries - marked[row, piece // PIECE_BYTES], 0.5)
        fresh += min(entries * math.log(entries / empty), float(here))
        grams += here
    return 1.0 - fresh / grams if grams else 0.0


@lean_kernel
def finish(
    memory: Bytes, rows: Counts, chosen: Counts, counts: AllTallies, stats: Counts, marked: Marks, scratch: Scratch,
    out: Row,
) -> None:  # fmt: skip
    """Fill ``out[chosen[i]]`` from what was counted of it in row *i*.

    Args:
        rows: start, length, packets, table start, link type and declared type by segment, as for ``profile_batch``.
        counts, stats, marked: as the device's ``count`` fills them.
    """
    together: Tallies = scratch[1]
    for index in range(len(chosen)):
        row = chosen[index]
        start, length, packets = rows[0, row], rows[1, row], rows[2, row]
        out[row, :] = 0.0
        out[row, _LENGTH] = length
        out[row, _PACKETS] = packets
        if rows[5, row] >= 0:
            out[row, _TYPE] = rows[5, row]
        if length == 0:
            continue
        for bin in range(512):
            together[bin] = counts[index, bin]
        describe(together, length, length - 1, False, out, row)
        out[row, _BASE64] = stats[index, _BASE64_LONGEST]
        out[row, _BASE64_SHARE] = stats[index, _BASE64_TOTAL] / length
        out[row, _ALPHANUMERIC] = stats[index, _ALPHANUMERIC_LONGEST]
        out[row, _ALPHANUMERIC_SHARE] = stats[index, _ALPHANUMERIC_TOTAL] / length
        out[row, _UTF8] = 1.0 - stats[index, _UTF8_ERRORS] / length
        out[row, _REPETITION] = _repetition(length, marked, index)
        out[row, _MATCH_RATIO] = match_ratio(memory, start, length, scratch[5])
        out[row, _PERIOD], out[row, _PERIOD_SHARE] = period(memory, start, length, scratch[6])
        if rows[5, row] < 0:
            out[row, _TYPE] = segment_type(memory, start, length, packets, rows[3, row], rows[4, row], scratch[4])
