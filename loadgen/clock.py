"""Time as the driver sees it, passed in so that tests own it."""

from __future__ import annotations

import ctypes
import time
from typing import Protocol

_PR_SET_TIMERSLACK = 29


class Clock(Protocol):
    """Nanoseconds that never run backwards, wall time, and a way to wait."""

    def monotonic_ns(self) -> int:
        """Now, on a clock without steps."""

    def time_ns(self) -> int:
        """Nanoseconds since 1970."""

    def sleep_until(self, monotonic_ns: int) -> None:
        """Return at that time or, after a signal for instance, earlier."""


class SystemClock:
    """The kernel's clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    time_ns = staticmethod(time.time_ns)

    def __init__(self) -> None:
        # By default the kernel may end a sleep 50 us late, to save wake-ups. That would be most of our lateness.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000), 0, 0, 0)

    def sleep_until(self, monotonic_ns: int) -> None:
        """See :class:`Clock`."""
        left_ns = monotonic_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
