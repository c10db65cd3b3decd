"""What one run came to, segment by segment, and two runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.interfaces import Rows
from streamspec.core.outcome import DELIVERED
from streamspec.core.prediction import PREDICTION, Predictor

KEPT_SEGMENTS = 1 << 17
Costs = npt.NDArray[np.float64]
SEGMENT = np.dtype([("length", "<u4"), ("latency_ns", "<i8"), ("features", "<f4", (FEATURE_COUNT,))])


class Measured:
    """A listener of the accounts: exact totals, and delivered segments evenly thinned to :data:`KEPT_SEGMENTS`.

    Args:
        objective_seconds: latency from which on a delivered segment has missed.

    Attributes:
        missed: segments that were late, shed or dead-lettered.
        bytes_out: payload of the results.
        useful_seconds: CPU time in the stages.
        worker_seconds: integral of the workers that lanes had, kept by who runs the service.
    """

    def __init__(self, objective_seconds: float) -> None:
        self._objective_ns = objective_seconds * 1e9
        self.segments = 0
        self.missed = 0
        self.bytes_out = 0
        self.useful_seconds = 0.0
        self.worker_seconds = 0.0
        self._stride = 1
        self._kept: list[Rows] = []
        self._count = 0

    def take(self, outcomes: Rows) -> None:
        """Keep finished segments; ``outcomes`` are ``OUTCOME`` rows."""
        delivered = outcomes[outcomes["ending"] == DELIVERED]
        self.segments += len(outcomes)
        self.missed += len(outcomes) - int((delivered["latency_ns"] <= self._objective_ns).sum())
        self.bytes_out += int(delivered["payload_bytes_out"].sum(dtype=np.int64))
        self.useful_seconds += float(outcomes["useful_ns"].sum()) / 1e9
        rows = np.zeros(len(delivered[:: self._stride]), dtype=SEGMENT)
        for name in ("length", "latency_ns", "features"):
            rows[name] = delivered[name][:: self._stride]
        self._kept.append(rows)
        self._count += len(rows)
        if self._count > KEPT_SEGMENTS:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._count, self._stride = len(self._kept[0]), self._stride * 2

    @property
    def kept(self) -> Rows:
        """Delivered segments, ``SEGMENT`` rows."""
        return np.concatenate(self._kept) if self._kept else np.zeros(0, dtype=SEGMENT)

    def told(self) -> dict[str, Any]:
        """For the summary; times in seconds."""
        return {
            "misses": {"segments": self.missed, "ratio": round(self.missed / max(self.segments, 1), 5)},
            "payload_bytes_out": self.bytes_out,
            "worker_seconds": round(self.worker_seconds, 2),
            "useful_seconds": round(self.useful_seconds, 3),
        }


def costs_of(rows: Rows, predictor: Predictor | None) -> Costs:
    """What each segment is to cost with every stage in its default variant, nanoseconds; its bytes without a model.

    The same model rates the segments of both runs, so that a half means the same segments in both, whatever
    variants they got.
    """
    if predictor is None:
        return rows["length"].astype(np.float64)
    predictions = np.zeros(len(rows), dtype=PREDICTION)
    predictor.predict(np.ascontiguousarray(rows["features"]), 0.0, predictions)
    return predictions["work_ns"].astype(np.float64)


def halves(rows: Rows, costs: Costs, boundary: float) -> dict[str, Any]:
    """Latency in seconds of the segments up to ``boundary`` and above it."""
    light = costs <= boundary
    latency = rows["latency_ns"] / 1e9
    return {name: _latency(latency[which]) for name, which in (("light", light), ("heavy", ~light))}


def _latency(seconds: Costs) -> dict[str, float | None]:
    if not len(seconds):
        return {"p50": None, "p99": None}
    middle, high = np.percentile(seconds, [50, 99]).tolist()
    return {"p50": round(middle, 6), "p99": round(high, 6)}


def compared(controlled: Mapping[str, Any], off: Mapping[str, Any]) -> dict[str, Any]:
    """Both runs side by side, from their summaries."""

    def both(*path: str) -> dict[str, Any]:
        found: list[Any] = [controlled, off]
        for name in path:
            found = [part[name] for part in found]
        return {"controlled": found[0], "off": found[1]}

    return {
        "missed_ratio": both("misses", "ratio"),
        "latency_seconds": both("latency_seconds"),
        "light_half_seconds": both("halves", "light"),
        "heavy_half_seconds": both("halves", "heavy"),
        "worker_seconds": both("worker_seconds"),
        "useful_seconds": both("useful_seconds"),
        "packets_dropped": both("packets_dropped"),
        "bytes_received": both("bytes_received"),
        "payload_bytes_out": both("payload_bytes_out"),
    }
