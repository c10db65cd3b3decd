"""How many messages are due at a rate, for senders that may lose their core for a while."""

from __future__ import annotations

import time

MOST_BEHIND_SECONDS = 0.02
"""What is missed beyond that is not made up for: a burst at full speed is no test of the rate."""


class Pace:
    """Starts when it is made.

    Args:
        rate: messages per second.
        seconds: how long sending is to take.
    """

    def __init__(self, rate: float, seconds: float) -> None:
        self.total = int(rate * seconds)
        self._rate, self._longest_seconds = rate, 2 * seconds
        self._started = self._origin = time.perf_counter()

    def due(self, sent: int) -> int:
        """Messages that are to have been sent by now; a negative number when time is over."""
        now = time.perf_counter()
        if now - self._started > self._longest_seconds:
            return -1
        behind = now - self._origin - sent / self._rate
        if behind > MOST_BEHIND_SECONDS:
            self._origin += behind - MOST_BEHIND_SECONDS
        return min(self.total, int((now - self._origin) * self._rate))

    def reached(self, sent: int) -> float:
        """Messages per second so far."""
        return sent / max(time.perf_counter() - self._started, 1e-9)
