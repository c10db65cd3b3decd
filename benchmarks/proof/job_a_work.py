"""The work of job A, on which all contenders call this one class: parse, features, signatures, zstd.

A record is a mark (:data:`MARK`) and packets, each behind its length. Its result is the mark, a summary
(:data:`SUMMARY`) and the packets as one zstd frame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from benchmarks.proof.job_a_kernels import count_decoded, index_frames
from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX
from streamspec.core.segment import PACKET
from streamspec.profiler.kernels import NO_LINK, NO_TABLE, make_scratch, profile_batch
from streamspec.profiler.sampling_kernels import DEFAULT_SAMPLE_BYTES
from streamspec.stages.decode_kernels import decode_packets
from streamspec.stages.decoded import DECODED, STATUS_NAMES
from streamspec.stages.patterns import PatternSearch
from streamspec.stages.rules import read_rules

MARK = struct.Struct("<QQ")
"""Number of the record and nanoseconds since 1970 at which it was due."""
SUMMARY = struct.Struct("<IIIIIff")
"""Packets, TCP packets, UDP packets, bytes of IP packets, matches of rules, entropy, code of the content's type."""
RULES = Path(__file__).parents[2] / "configs" / "rules" / "basic.yaml"
LEVEL = 9
LARGEST_PACKETS = 4096
ETHERNET = 1

_ENTROPY = FEATURE_INDEX["entropy_bits"]
_TYPE = FEATURE_INDEX["type_code"]


class Work:
    """One instance per process or thread; ready to be called once it is made."""

    def __init__(self) -> None:
        self._search = PatternSearch(read_rules(RULES)).search
        self._compress = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress
        self._rows = np.zeros(LARGEST_PACKETS, dtype=PACKET)
        self._decoded = np.zeros(LARGEST_PACKETS, dtype=DECODED)
        self._counts = np.zeros(len(STATUS_NAMES), dtype=np.int64)
        self._features = np.zeros((64, FEATURE_COUNT), dtype=np.float32)
        self._columns = np.zeros((6, 64), dtype=np.int64)
        self._scratch = make_scratch()
        self.many([bytes(200), bytes(200)])  # kernels are loaded here

    def __call__(self, value: bytes) -> bytes:
        """The result of one record."""
        memory = np.frombuffer(value, dtype=np.uint8)
        (summary,) = self.summaries(memory, [(MARK.size, len(value))])
        return b"".join((value[: MARK.size], summary, self._compress(memoryview(value)[MARK.size :])))

    def many(self, values: Sequence[bytes]) -> list[bytes]:
        """Results of several records: what can be done for all of them in one call is."""
        content = b"".join(values)
        spans, at = [], 0
        for value in values:
            spans.append((at + MARK.size, at + len(value)))
            at += len(value)
        summaries = self.summaries(np.frombuffer(content, dtype=np.uint8), spans)
        compress = self._compress
        return [
            b"".join((value[: MARK.size], summary, compress(memoryview(value)[MARK.size :])))
            for value, summary in zip(values, summaries, strict=True)
        ]

    def of_segment(self, segment: Any) -> list[bytes]:
        """Results of the records of one segment, where they lie."""
        packets, payload = segment.packets, segment.payload
        starts = packets["offset"].tolist()
        ends = (packets["offset"] + packets["captured_bytes"]).tolist()
        bodies = [(start + MARK.size, end) for start, end in zip(starts, ends, strict=True)]
        summaries = self.summaries(segment.original, bodies)
        compress = self._compress
        return [
            b"".join((payload[start : start + MARK.size], summary, compress(payload[body:end])))
            for start, (body, end), summary in zip(starts, bodies, summaries, strict=True)
        ]

    def summaries(self, memory: npt.NDArray[np.uint8], spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The summaries of records that lie in ``memory[start:end]``, without their marks."""
        rows, ends, row = self._rows, [], 0
        for start, end in spans:
            if (end - start) // 4 > len(rows) - row:
                rows = self._grown(row, (end - start) // 4)
            row = index_frames(memory, start, end, row, rows)
            ends.append(row)
        decoded = self._decoded
        decode_packets(memory, rows[:row], ETHERNET, True, decoded[:row], self._counts)
        features = self._profiled(memory, spans, ends)
        starts = rows["offset"][:row].astype(np.int64)
        matches = np.zeros(len(spans), dtype=np.int64)
        for packet, *_ in self._search(memory, starts, starts + rows["captured_bytes"][:row]):
            matches[np.searchsorted(ends, packet, side="right")] += 1
        made, first = [], 0
        for index, (end, found) in enumerate(zip(ends, matches.tolist(), strict=True)):
            counted = count_decoded(decoded, first, end)
            kind = features[index, _ENTROPY], features[index, _TYPE]
            made.append(SUMMARY.pack(end - first, *counted, found, *kind))
            first = end
        return made

    def _grown(self, used: int, wanted: int) -> npt.NDArray[Any]:
        rows = np.zeros(2 * (used + wanted), dtype=PACKET)
        rows[:used] = self._rows[:used]
        self._rows, self._decoded = rows, np.zeros(len(rows), dtype=DECODED)
        return rows

    def _profiled(
        self, memory: npt.NDArray[np.uint8], spans: Sequence[tuple[int, int]], ends: Sequence[int]
    ) -> npt.NDArray[np.float32]:
        count = len(spans)
        if count > len(self._features):
            self._features = np.zeros((count, FEATURE_COUNT), dtype=np.float32)
            self._columns = np.zeros((6, count), dtype=np.int64)
        columns = self._columns
        columns[3], columns[4], columns[5] = NO_TABLE, NO_LINK, -1
        for index, (start, end) in enumerate(spans):
            columns[0, index], columns[1, index] = start, end - start
        columns[2, :count] = np.diff(ends, prepend=0)
        begins, lengths, packets, tables, links, declared = (column[:count] for column in columns)
        scratch, features = self._scratch, self._features
        profile_batch(
            memory, begins, lengths, packets, tables, links, declared, DEFAULT_SAMPLE_BYTES, scratch, features
        )
        return self._features


_WORK: list[Work] = []


def work(value: bytes) -> bytes:
    """:class:`Work` of this process, as a plain function."""
    if not _WORK:
        _WORK.append(Work())
    return _WORK[0](value)


class Stage:
    """:class:`Work` as the class form of streamspec's stage ``map``."""

    def open(self) -> None:
        """Load kernels and compile rules before the first segment."""
        self._work = Work()

    def process(self, segment: Any, context: Any) -> None:
        """One record a segment."""
        segment.payload = memoryview(self._work(bytes(segment.payload)))


class SegmentStage(Stage):
    """The same for all records that share a segment (``gather_bytes``), in one call where that can be."""

    def process(self, segment: Any, context: Any) -> None:
        """Each record of the segment has a result of its own."""
        segment.replace_messages(self._work.of_segment(segment))
