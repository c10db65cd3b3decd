"""A token bucket that says how long to wait; pure, so that whoever sends decides how to wait.

Tokens are bytes. The bucket fills at ``bytes_per_second`` up to ``burst_bytes`` and may go into debt: what
is sent is subtracted at once and the delay is the time until the debt is paid,
``max(0, -tokens) / rate``. Over any interval ``t`` at most ``burst + rate * t + one request`` bytes pass,
and a request larger than the burst is delayed, never refused.
"""

from __future__ import annotations

from typing import Protocol


class Pace(Protocol):
    """Says how long to wait, as several senders share it.

    Attributes:
        bytes_per_second: what this sender is sure of.
    """

    @property
    def bytes_per_second(self) -> float: ...

    def delay_ns(self, now_ns: int, size_bytes: int) -> int:
        """Take ``size_bytes`` and return how long to wait before they are sent, in nanoseconds."""


class TokenBucket:
    """See the module. Starts full.

    Args:
        bytes_per_second: rate, above 0.
        burst_bytes: capacity, above 0. Smaller is smoother and wakes up more often.
    """

    def __init__(self, bytes_per_second: float, burst_bytes: float) -> None:
        if bytes_per_second <= 0 or burst_bytes <= 0:
            raise ValueError(f"rate and burst must be above 0, not {bytes_per_second} and {burst_bytes}")
        self.bytes_per_second = bytes_per_second
        self.burst_bytes = burst_bytes
        self._tokens = burst_bytes
        self._filled_ns: int | None = None

    def delay_ns(self, now_ns: int, size_bytes: int) -> int:
        """Take ``size_bytes`` out at time ``now_ns`` and return how long to wait before they are sent, in
        nanoseconds (0: at once). Times that go backwards fill nothing."""
        if self._filled_ns is None:
            self._filled_ns = now_ns
        if now_ns > self._filled_ns:
            earned = (now_ns - self._filled_ns) * 1e-9 * self.bytes_per_second
            self._tokens = min(self.burst_bytes, self._tokens + earned)
            self._filled_ns = now_ns
        self._tokens -= size_bytes
        return 0 if self._tokens >= 0 else int(-self._tokens / self.bytes_per_second * 1e9)

    def set_rate(self, now_ns: int, bytes_per_second: float) -> None:
        """Change the rate from ``now_ns`` on; what was earned at the old one stays."""
        self.delay_ns(now_ns, 0)
        if bytes_per_second <= 0:
            raise ValueError(f"rate must be above 0, not {bytes_per_second}")
        self.bytes_per_second = bytes_per_second
