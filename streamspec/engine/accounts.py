"""What became of every segment, latency per lane, and one outcome record per finished segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from streamspec.core.interfaces import Counts, Rows, Slots
from streamspec.core.outcome import OUTCOME
from streamspec.core.tally import Tally
from streamspec.engine import kernels
from streamspec.engine.foresight import Foresight

RECENT_OUTCOMES = 4096
OutcomeListener = Callable[[Rows], None]


class Accounts:
    """Totals since the start. Kernels write :attr:`vector`; nothing is counted per packet in Python.

    Attributes:
        allocations: ``int64 (lanes, 3)``: workers, nice, batch, as outcomes state them.
        histograms: ``int64 (lanes, 2, buckets)``: latency and wait of delivered segments, nanoseconds.
        retired: ``int64 (2, buckets)``: the same of lanes that are no more.
        shed, retries: what was dropped by choice, by bounded reasons, and what was tried again.
        foresight: what had been seen and predicted of segments; outcomes say it.
    """

    def __init__(self, lanes: Sequence[str]) -> None:
        self.foresight: Foresight | None = None
        self.vector: Counts = np.zeros(kernels.ACCOUNTS, dtype=np.int64)
        self.listeners: list[OutcomeListener] = []
        self.shed = Tally()
        self.retries = 0
        self.retired: Counts = np.zeros((2, kernels.HISTOGRAM_BUCKETS), dtype=np.int64)
        self._lanes: list[str] = []
        self.set_lanes(lanes)
        self._rows: Rows = np.zeros(1024, dtype=OUTCOME)
        self._recent: Rows = np.zeros(RECENT_OUTCOMES, dtype=OUTCOME)
        self._finished = 0

    def set_lanes(self, names: Sequence[str]) -> None:
        """Other lanes from now on; those that keep their name keep their histograms."""
        self.allocations: Counts = np.zeros((len(names), 3), dtype=np.int64)
        fresh = np.zeros((len(names), 2, kernels.HISTOGRAM_BUCKETS), dtype=np.int64)
        for index, name in enumerate(self._lanes):
            kept = fresh[names.index(name)] if name in names else self.retired
            kept += self.histograms[index]
        self.histograms: Counts = fresh
        self._lanes = list(names)

    def finish(self, headers: Rows, slots: Slots, now_ns: int) -> None:
        """Account for slots that are finished, and tell the listeners. Rows are valid during the call."""
        if len(slots) > len(self._rows):
            self._rows = np.zeros(2 * len(slots), dtype=OUTCOME)
        kernels.finish(headers, slots, now_ns, self.allocations, self._rows, self.histograms, self.vector)
        rows = self._rows[: len(slots)]
        if self.foresight is not None:
            self.foresight.note(headers, slots, rows)
        kernels.keep_recent(self._recent, self._finished, rows)
        self._finished += len(slots)
        for listener in self.listeners:
            listener(rows)

    def recent_outcomes(self) -> Rows:
        """The last :data:`RECENT_OUTCOMES` outcome records, the oldest first; a copy."""
        at = self._finished % RECENT_OUTCOMES
        if self._finished < RECENT_OUTCOMES:
            return self._recent[:at].copy()
        return np.concatenate([self._recent[at:], self._recent[:at]])

    # -- reading ------------------------------------------------------------------------------
    @property
    def lane_names(self) -> Sequence[str]:
        """Names of the present lanes, by index."""
        return self._lanes

    @property
    def received_segments(self) -> int:
        return int(self.vector[kernels.RECEIVED_SEGMENTS])

    @property
    def received_bytes(self) -> int:
        return int(self.vector[kernels.RECEIVED_BYTES])

    @property
    def received_packets(self) -> int:
        return int(self.vector[kernels.RECEIVED_PACKETS])

    @property
    def delivered_segments(self) -> int:
        return int(self.vector[kernels.DELIVERED_SEGMENTS])

    @property
    def delivered_bytes(self) -> int:
        return int(self.vector[kernels.DELIVERED_BYTES])

    @property
    def dead_lettered_segments(self) -> int:
        return int(self.vector[kernels.DEAD_SEGMENTS])

    @property
    def shed_segments(self) -> int:
        return int(self.vector[kernels.SHED_SEGMENTS])

    @property
    def finished_segments(self) -> int:
        """Delivered, dead-lettered or shed."""
        return self.delivered_segments + self.dead_lettered_segments + self.shed_segments

    @property
    def unfinished_segments(self) -> int:
        """Received, and neither delivered, dead-lettered nor shed yet."""
        return self.received_segments - self.finished_segments

    def latency_seconds(self, percentile: float, lane: int | None = None) -> float:
        """Percentile (0 to 100) of latency from arrival to delivery, within 6 %; NaN without data."""
        histogram = self.retired[0] + self.histograms[:, 0].sum(axis=0) if lane is None else self.histograms[lane, 0]
        return percentile_ns(histogram, percentile) / 1e9


def percentile_ns(histogram: Counts, percentile: float) -> float:
    """Upper edge of the bucket that holds the percentile; NaN for an empty histogram."""
    total = int(histogram.sum())
    if not total:
        return float("nan")
    bucket = int(np.searchsorted(np.cumsum(histogram), max(1, np.ceil(total * percentile / 100))))
    return float(bucket_edge_ns(bucket + 1))


def bucket_edge_ns(bucket: int) -> int:
    """Lower edge of a histogram bucket (inverse of ``kernels.bucket_of``)."""
    sub = 1 << kernels.HISTOGRAM_SUB_BITS
    if bucket < sub:
        return bucket
    octave, rest = divmod(bucket, sub)
    return (sub + rest) << (octave - 1)
