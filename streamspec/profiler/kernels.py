"""The whole feature vector, for a batch of segments in one call, straight from the memory that holds them."""

from __future__ import annotations

import numpy as np

from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX, INFER_TYPE
from streamspec.core.interfaces import Bytes, Counts, Rows, Slots
from streamspec.core.jit import lean_kernel
from streamspec.core.segment import CONTENT_PACKETS
from streamspec.profiler import text_kernels
from streamspec.profiler.histogram_kernels import COUNTS, TALLIES, Row, Tallies, describe, gather, tally, tally_block
from streamspec.profiler.repetition_kernels import (
    GRAM_TABLE_BITS,
    HIGHEST_LAG,
    MATCH_TABLE_BITS,
    Lags,
    Recent,
    count_new_grams,
    gram_table_bits,
    mark_grams,
    match_ratio,
    period,
    whole_repetition,
)
from streamspec.profiler.sampling_kernels import BLOCK_BYTES, block_count, block_start
from streamspec.profiler.text_kernels import State, finish_runs, read_stretch
from streamspec.profiler.text_type_kernels import WINDOW_BYTES
from streamspec.profiler.types import segment_type
from streamspec.profiler.vector import CHUNK, prefetch, to_int

NO_LINK = -1
"""Link type of messages that are not captured packets."""
NO_TABLE = -1
"""Table start of a segment without a packet table."""

_LENGTH = FEATURE_INDEX["length_bytes"]
_PACKETS = FEATURE_INDEX["packets"]
_BASE64 = FEATURE_INDEX["base64_longest_bytes"]
_BASE64_SHARE = FEATURE_INDEX["base64_run_share"]
_ALPHANUMERIC = FEATURE_INDEX["alphanumeric_longest_bytes"]
_ALPHANUMERIC_SHARE = FEATURE_INDEX["alphanumeric_run_share"]
_UTF8 = FEATURE_INDEX["utf8_valid_share"]
_REPETITION = FEATURE_INDEX["repetition_share"]
_MATCH_RATIO = FEATURE_INDEX["lz_ratio"]
_PERIOD = FEATURE_INDEX["period_bytes"]
_PERIOD_SHARE = FEATURE_INDEX["period_share"]
_TYPE = FEATURE_INDEX["type_code"]

Scratch = tuple[Tallies, Tallies, State, Bytes, Bytes, Recent, Lags]


def make_scratch() -> Scratch:
    """Working memory for one thread: histograms, their sums, state of runs, 4-gram table, window, matches, lags."""
    return (
        np.zeros(TALLIES, dtype=np.uint32),
        np.zeros(COUNTS, dtype=np.uint32),
        np.zeros(text_kernels.STATE, dtype=np.int64),
        np.zeros(1 << GRAM_TABLE_BITS, dtype=np.uint8),
        np.zeros(WINDOW_BYTES, dtype=np.uint8),
        np.zeros(1 << MATCH_TABLE_BITS, dtype=np.int32),
        np.zeros(HIGHEST_LAG + 1, dtype=np.int64),
    )


@lean_kernel
def _read_whole(memory: Bytes, start: int, length: int, scratch: Scratch) -> float:
    """Read every byte; returns the share of repeated 4-grams."""
    tallies, _, state, table, window, _, _ = scratch
    tally(memory, start, start + length, False, tallies)
    read_stretch(memory, start, start + length, 0, window, state)
    return whole_repetition(memory, start, length, table)


@lean_kernel
def _read_blocks(memory: Bytes, start: int, length: int, blocks: int, scratch: Scratch) -> tuple[int, float]:
    """Read a sample of blocks; returns the differences counted and the share of repeated 4-grams."""
    tallies, _, state, table, window, _, _ = scratch
    bits = gram_table_bits(blocks * BLOCK_BYTES)
    grams = differences = 0
    end = start
    at = start + block_start(length, blocks, 0)
    for index in range(blocks):
        following = start + block_start(length, blocks, min(index + 1, blocks - 1))
        for line in range(following, following + BLOCK_BYTES, CHUNK):
            prefetch(memory, line)
        differences += tally_block(memory, at, at + BLOCK_BYTES, at > start, tallies)
        read_stretch(memory, at, at + BLOCK_BYTES, at - end if index else 0, window, state)
        grams += mark_grams(memory, at, at + BLOCK_BYTES, bits, table)
        end = at + BLOCK_BYTES
        at = following
    return differences, 1.0 - count_new_grams(bits, grams, table) / grams


@lean_kernel
def profile_content(
    memory: Bytes, start: int, length: int, sample_bytes: int, scratch: Scratch, out: Row, row: int
) -> None:
    """All columns that the bytes alone decide, of a segment that is not empty."""
    tallies, counts, state, _, _, recent, lags = scratch
    state[:] = 0
    blocks = block_count(length, sample_bytes)
    if blocks > 1:
        total = blocks * BLOCK_BYTES
        differences, repetition = _read_blocks(memory, start, length, blocks, scratch)
    else:
        total = length
        differences = length - 1
        repetition = _read_whole(memory, start, length, scratch)
    gather(tallies, counts)
    describe(counts, total, differences, blocks > 1, out, row)
    finish_runs(state)
    out[row, _BASE64] = state[text_kernels.BASE64_LONGEST]
    out[row, _BASE64_SHARE] = state[text_kernels.BASE64_TOTAL] / total
    out[row, _ALPHANUMERIC] = state[text_kernels.ALPHANUMERIC_LONGEST]
    out[row, _ALPHANUMERIC_SHARE] = state[text_kernels.ALPHANUMERIC_TOTAL] / total
    out[row, _UTF8] = 1.0 - state[text_kernels.UTF8_ERRORS] / total
    out[row, _REPETITION] = repetition
    out[row, _MATCH_RATIO] = match_ratio(memory, start, length, recent)
    out[row, _PERIOD], out[row, _PERIOD_SHARE] = period(memory, start, length, lags)


@lean_kernel
def profile_segment(
    memory: Bytes,
    start: int,
    length: int,
    packets: int,
    table: int,
    link_type: int,
    declared: int,
    sample_bytes: int,
    scratch: Scratch,
    out: Row,
    row: int,
) -> None:
    """One row of ``out``. What lies outside of ``memory`` is cut off; see :func:`profile_batch`."""
    start = min(max(start, 0), len(memory))
    length = min(max(length, 0), len(memory) - start)
    out[row, :] = 0.0
    out[row, _LENGTH] = length
    out[row, _PACKETS] = packets
    if declared >= 0:
        out[row, _TYPE] = declared
    if length == 0:
        return
    profile_content(memory, start, length, sample_bytes, scratch, out, row)
    if declared < 0:
        out[row, _TYPE] = segment_type(memory, start, length, packets, table, link_type, scratch[4])


@lean_kernel
def profile_batch(
    memory: Bytes,
    starts: Counts,
    lengths: Counts,
    packet_counts: Counts,
    table_starts: Counts,
    link_types: Counts,
    declared_types: Counts,
    sample_bytes: int,
    scratch: Scratch,
    out: Row,
) -> None:
    """Profile segments anywhere in ``memory``.

    Args:
        memory: ``uint8``; segment *i* is ``memory[starts[i] : starts[i] + lengths[i]]``.
        packet_counts: packets (or messages) of each segment.
        table_starts: where the ``PACKET`` rows of each segment begin in ``memory``, or :data:`NO_TABLE`.
        link_types: ``LINK_*`` of each segment's packets, or :data:`NO_LINK` for messages.
        declared_types: type code of each segment, or ``INFER_TYPE``.
        sample_bytes: read at most so many bytes of a segment for the features that allow it; 0 reads all.
        scratch: from :func:`make_scratch`; not to be used by two calls at the same time.
        out: ``float32``, shape ``(segments, FEATURE_COUNT)``; filled.
    """
    for index in range(len(starts)):
        if index + 1 < len(starts):
            prefetch(memory, starts[index + 1])
        profile_segment(
            memory,
            starts[index],
            lengths[index],
            packet_counts[index],
            table_starts[index],
            link_types[index],
            declared_types[index],
            sample_bytes,
            scratch,
            out,
            index,
        )


@lean_kernel
def read_headers(
    headers: Rows,
    slots: Slots,
    first_slot: int,
    stride: int,
    table_offset: int,
    declared_by_source: Counts,
    out: Counts,
) -> None:
    """What :func:`profile_batch` needs to know of slots of an arena, from their ``HEADER`` rows.

    Args:
        first_slot: byte offset of slot 0 in the arena; ``stride``: distance between slots.
        table_offset: of the packet table within a slot.
        declared_by_source: type code for each index of a source, or ``INFER_TYPE``; sources beyond its end are
            inferred.
        out: shape ``(6, slots)`` at least: starts, lengths, packet counts, table starts, link types, declared types.
    """
    for index in range(len(slots)):
        slot = slots[index]
        start = first_slot + to_int(slot) * stride
        source = to_int(headers["source"][slot])
        is_packets = headers["content"][slot] == CONTENT_PACKETS
        out[0, index] = start
        out[1, index] = to_int(headers["length"][slot])
        out[2, index] = to_int(headers["packets"][slot])
        out[3, index] = start + table_offset
        out[4, index] = to_int(headers["link_type"][slot]) if is_packets else NO_LINK
        out[5, index] = declared_by_source[source] if source < len(declared_by_source) else INFER_TYPE


assert FEATURE_COUNT == _TYPE + 1
