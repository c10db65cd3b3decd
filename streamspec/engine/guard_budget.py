"""The objective's budget of misses over the last minute or so: who has spent it takes nothing away.

A load that comes in bursts looks light between them; that it was missed in each of them is remembered here.
"""

from __future__ import annotations

import math

from streamspec.core.control import COST_BIN_MIDDLES_NS, COST_BINS, Observation, TrafficState


class MissBudget:
    """Misses and finished segments by traffic class, fading with ``memory_seconds``."""

    def __init__(self, memory_seconds: float) -> None:
        self._memory = memory_seconds
        self._last: float | None = None
        self._counts: dict[str, tuple[float, float]] = {}

    def update(self, observation: Observation) -> None:
        """Take in the time since the last observation."""
        now = observation.now_seconds
        since = observation.window_seconds if self._last is None else max(now - self._last, 0.0)
        self._last = now
        kept = math.exp(-since / self._memory) if self._memory > 0 else 0.0
        for traffic in observation.traffic:
            missed, finished = self._counts.get(traffic.name, (0.0, 0.0))
            more_missed, more_finished = avoidable_misses(traffic)
            self._counts[traffic.name] = (missed * kept + more_missed * since, finished * kept + more_finished * since)

    def spent(self, traffic: TrafficState) -> float:
        """Share of the class's budget that is spent; above 1 the objective is missed."""
        missed, finished = self._counts.get(traffic.name, (0.0, 0.0))
        return missed / finished / traffic.objective.miss_budget_ratio if finished >= 1.0 else 0.0


def avoidable_misses(traffic: TrafficState) -> tuple[float, float]:
    """Misses per second of segments that are predicted to take less than the objective alone, and all finished ones."""
    arrivals = traffic.arrivals
    if len(arrivals.misses_per_second) != COST_BINS or len(arrivals.finished_per_second) != COST_BINS:
        return 0.0, 0.0
    limit_ns = traffic.objective.latency_seconds * 1e9
    pairs = zip(COST_BIN_MIDDLES_NS, arrivals.misses_per_second, strict=True)
    return sum(missed for middle, missed in pairs if middle < limit_ns), sum(arrivals.finished_per_second)
