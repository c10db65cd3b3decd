"""Stages for tests and benchmarks that configure a whole service; named by ``map``, as a user's stages are:

``{type: map, function: "streamspec.testing.workload:Crash"}``
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
from pathlib import Path

from streamspec.core.interfaces import Segment, StageContext


class Identity:
    """Does nothing."""

    def process(self, segment: Segment, context: StageContext) -> None:
        """Leave everything as it is."""


class Spin:
    """Burns CPU time of its thread: as many microseconds as the payload's first four bytes say (little-endian)."""

    def process(self, segment: Segment, context: StageContext) -> None:
        """See the class."""
        until_ns = time.thread_time_ns() + _microseconds(segment) * 1000
        while time.thread_time_ns() < until_ns:
            pass


class Sleep:
    """Waits without using the CPU: as many microseconds as the payload's first four bytes say (little-endian)."""

    def process(self, segment: Segment, context: StageContext) -> None:
        """See the class."""
        time.sleep(_microseconds(segment) * 1e-6)


class Crash:
    """Does what the payload begins with: ``SEGV`` (a segmentation fault in C), ``KILL`` (SIGKILL to the worker),
    ``FAIL`` (raises), ``HANG`` (waits for ever). Any other payload passes."""

    def process(self, segment: Segment, context: StageContext) -> None:
        """See the class."""
        order = bytes(segment.payload[:4])
        if order == b"SEGV":
            ctypes.string_at(0)
        elif order == b"KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == b"FAIL":
            raise ValueError("the payload says so")
        elif order == b"HANG":
            while True:
                signal.pause()


class FailTimes:
    """Raises on the first attempts at each payload, whichever worker makes them.

    Args:
        folder: where the attempts are counted, in a file per payload; empty at first.
        times: attempts that fail.
    """

    def __init__(self, folder: str, times: int = 1) -> None:
        self._folder = Path(folder)
        self._times = times

    def process(self, segment: Segment, context: StageContext) -> None:
        """Raise, or count ``attempts_needed`` and pass."""
        attempt = self._count(bytes(segment.payload))
        if attempt <= self._times:
            raise RuntimeError(f"attempt {attempt} of {self._times} that fail")
        context.count("attempts_needed", attempt)

    def _count(self, payload: bytes) -> int:
        fd = os.open(self._folder / payload[:64].hex(), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, b"x")
            return os.fstat(fd).st_size
        finally:
            os.close(fd)


def _microseconds(segment: Segment) -> int:
    return int.from_bytes(segment.payload[:4], "little")
