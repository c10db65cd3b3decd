"""The reducer of ``meter``: deltas of all workers into one flow table, and finished flows into records."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable

import numpy as np

from streamspec.core.interfaces import Bytes, Rows
from streamspec.stages import flow_records, flow_table_kernels
from streamspec.stages.flow_rows import DELTA, FLOW, aligned_zeros
from streamspec.stages.flow_table_kernels import (
    ACTIVE_NS,
    ALIVE_LIST,
    CLOSED,
    ENDED_LIST,
    IDLE_NS,
    LINGER_NS,
    LIVE,
    NOW_NS,
    SEED,
    STATE_COLUMNS,
)

RECORD_TYPE = "flow"
SMALLEST_INDEX = 1 << 12
BATCH_ROWS = 2048
"""Records per batch of lines, about a megabyte."""
CHUNK_ROWS = 4 * BATCH_ROWS
"""Closed flows per array, a megabyte; arrays are used again."""
KEPT_CHUNKS = 4
KEPT_LINES = 16
UNUSED_REFERENCES = 3
"""Of an array that is in a list, in a variable, and asked about, and of which nobody has a view."""


class FlowTable:
    """Implements ``Reducer``. Time is the latest packet time seen, so a capture read as fast as possible
    gives the same records as the traffic it was taken from.

    Args:
        idle_timeout_seconds: a flow without packets for longer is closed.
        active_timeout_seconds: no record covers more than this; at least the idle timeout.
        end_linger_seconds: how long a finished TCP connection waits for stragglers.
        max_flows: flows in the table; beyond, the one idle for longest is closed.
        timestamps: which times a record has: ``milliseconds``, ``nanoseconds`` or ``both``.
        seed: of the hash; a random one by default.
    """

    def __init__(
        self,
        *,
        idle_timeout_seconds: float = 30.0,
        active_timeout_seconds: float = 300.0,
        end_linger_seconds: float = 2.0,
        max_flows: int = 1_000_000,
        timestamps: str = "milliseconds",
        seed: int | None = None,
    ) -> None:
        self._flows = aligned_zeros(max_flows, FLOW)
        self._links = np.zeros((max_flows + 2, 2), dtype=np.uint32)
        for head in (max_flows + ALIVE_LIST, max_flows + ENDED_LIST):
            self._links[head] = head
        self._free = np.zeros((max_flows, 1), dtype=np.uint32)
        self._index = np.zeros(SMALLEST_INDEX, dtype=np.uint64)
        self._state = np.zeros(STATE_COLUMNS, dtype=np.int64)
        self._state[NOW_NS] = np.iinfo(np.int64).min // 2
        self._state[IDLE_NS] = round(idle_timeout_seconds * 1e9)
        self._state[ACTIVE_NS] = round(active_timeout_seconds * 1e9)
        self._state[LINGER_NS] = round(end_linger_seconds * 1e9)
        self._state[SEED] = secrets.randbits(63) if seed is None else seed
        self._chunk = aligned_zeros(CHUNK_ROWS, FLOW)
        self._full: list[tuple[Rows, int]] = []
        self._empty: list[Rows] = []
        self._lines: list[Bytes] = []
        self._timestamps = flow_records.TIMESTAMPS.index(timestamps)
        self._warm_up()

    @property
    def live_flows(self) -> int:
        """Flows in the table."""
        return int(self._state[LIVE])

    def _warm_up(self) -> None:
        """Compile or load the kernels now, not in the event loop: a first time takes seconds."""
        self.merge(memoryview(b""))
        self.collect(final=True)
        self._drain(flow_table_kernels.expire)
        self._grow_index(SMALLEST_INDEX // 4)
        self._encode(self._chunk[:0])

    def merge(self, content: memoryview) -> None:
        deltas: Rows = np.frombuffer(content, dtype=DELTA)
        deltas.flags.writeable = False  # one type for the kernel, whoever owns the memory
        count = len(deltas)
        state = self._state
        if 2 * (state[LIVE] + count) > len(self._index):
            self._grow_index(int(state[LIVE]) + count)
        if state[CLOSED] + 2 * count >= len(self._chunk):
            self._next_chunk(2 * count + 1)
        flows, links, free = self._flows, self._links, self._free
        closed = flow_table_kernels.merge(deltas, flows, links, free, self._index, state, self._chunk)
        if closed == len(self._chunk):
            self._drain(flow_table_kernels.expire)

    def collect(self, *, final: bool) -> list[tuple[str, bytes | memoryview, int]]:
        if final:
            self._drain(flow_table_kernels.close_all)
        if self._state[CLOSED]:
            self._next_chunk()
        records: list[tuple[str, bytes | memoryview, int]] = []
        for chunk, closed in self._full:
            for start in range(0, closed, BATCH_ROWS):
                rows = chunk[start : min(start + BATCH_ROWS, closed)]
                records.append((RECORD_TYPE, self._encode(rows), len(rows)))
        self._empty += [chunk for chunk, _ in self._full if len(chunk) == CHUNK_ROWS]
        del self._empty[KEPT_CHUNKS:]
        self._full = []
        return records

    def _drain(self, close: Callable[..., int]) -> None:
        """Call a closing kernel until it leaves room, that is, until nothing more is due."""
        arrays = self._flows, self._links, self._free, self._index, self._state
        while close(*arrays, self._chunk) == len(self._chunk):
            self._next_chunk()

    def _next_chunk(self, rows: int = CHUNK_ROWS) -> None:
        """Go on with an empty array of at least so many rows."""
        closed = int(self._state[CLOSED])
        if closed:
            self._full.append((self._chunk, closed))
        if closed or len(self._chunk) < rows:
            fits = self._empty and rows <= CHUNK_ROWS
            self._chunk = self._empty.pop() if fits else aligned_zeros(max(rows, CHUNK_ROWS), FLOW)
        self._state[CLOSED] = 0

    def _grow_index(self, flows: int) -> None:
        larger = np.zeros(1 << (4 * flows - 1).bit_length(), dtype=np.uint64)
        flow_table_kernels.reindex(self._index, larger)
        self._index = larger

    def _encode(self, rows: Rows) -> memoryview:
        """Records as lines, in memory that is theirs as long as somebody has a view of it."""
        lines = self._unused_lines()
        return lines[: flow_records.write_lines(rows, lines, self._timestamps)].data

    def _unused_lines(self) -> Bytes:
        """Memory for the lines of a batch: used again, since fresh pages cost more than the lines themselves."""
        for lines in self._lines:
            if sys.getrefcount(lines) == UNUSED_REFERENCES:
                return lines
        lines = np.empty(BATCH_ROWS * flow_records.LONGEST_LINE_BYTES, dtype=np.uint8)
        if len(self._lines) < KEPT_LINES:
            self._lines.append(lines)
        return lines
