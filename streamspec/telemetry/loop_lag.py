"""How late the event loop is: everything that runs in it waits that long."""

from __future__ import annotations

import asyncio
import bisect
import time

from streamspec.telemetry.state import Histogram

PERIOD_SECONDS = 0.1
EDGES_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class LoopLag:
    """Wakes up every :data:`PERIOD_SECONDS` and notes by how much that was too late."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._counts = [0] * (len(EDGES_SECONDS) + 1)
        self._sum_seconds = 0.0
        self._largest_seconds = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; safe to call twice."""
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def take_largest_seconds(self) -> float:
        """The largest since the last call, or what is running up now."""
        largest = max(self._largest_seconds, time.monotonic() - self._due if self._timer else 0.0)
        self._largest_seconds = 0.0
        return max(largest, 0.0)

    def histogram(self) -> Histogram:
        """Since the start."""
        cumulative, edges = 0, []
        for edge, count in zip(EDGES_SECONDS, self._counts, strict=False):
            cumulative += count
            edges.append((edge, cumulative))
        return Histogram(tuple(edges), self._sum_seconds, sum(self._counts))

    def _arm(self) -> None:
        self._due = time.monotonic() + PERIOD_SECONDS
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._woken)

    def _woken(self) -> None:
        late = max(time.monotonic() - self._due, 0.0)
        self._counts[bisect.bisect_left(EDGES_SECONDS, late)] += 1
        self._sum_seconds += late
        self._largest_seconds = max(self._largest_seconds, late)
        self._arm()
