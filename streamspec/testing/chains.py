"""Chain factories for workers in tests and benchmarks of the engine alone."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from streamspec.core.errors import ConfigError
from streamspec.core.interfaces import Segment, Stage, StageContext


class _Identity:
    def process(self, segment: Segment, context: StageContext) -> None:
        """Leave everything as it is."""


class _Obedient:
    """Does what the payload's first four bytes say: ``SEGV``, ``KILL``, ``EXIT``, ``FAIL``, ``HANG``,
    ``UPPR`` (upper case), ``SPIL`` (a result of 1 MiB), ``RECS`` (records and a delta), ``SLPn`` (sleep n ms)."""

    def __init__(self, suffix: bytes = b"") -> None:
        self._suffix = suffix

    def process(self, segment: Segment, context: StageContext) -> None:
        """See the class."""
        order = bytes(segment.payload[:4])
        if order == b"SEGV":
            ctypes.string_at(0)
        elif order == b"KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == b"EXIT":
            raise SystemExit(3)
        elif order == b"FAIL":
            raise ValueError("the payload says so")
        elif order == b"HANG":
            time.sleep(3600)
        elif order == b"UPPR":
            segment.payload = memoryview(bytes(segment.payload).upper() + self._suffix)
        elif order == b"SPIL":
            segment.payload = memoryview(bytes(segment.payload[4:5]) * (1 << 20))
        elif order == b"RECS":
            context.emit("note", b'{"key":"%s"}' % segment.key)
            context.emit("note", b'{"second":1}')
            context.delta(bytes(segment.payload[4:]))
            context.count("seen", 2)
        elif order[:3] == b"SLP":
            time.sleep(int(order[3:4]) / 1000)


class _Spin:
    def process(self, segment: Segment, context: StageContext) -> None:
        """Burn the CPU time, in microseconds, that the payload's first four bytes state."""
        until = time.thread_time_ns() + int.from_bytes(segment.payload[:4], "little") * 1000
        while time.thread_time_ns() < until:
            pass


def spinning(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """One stage whose cost the payload states."""
    return [("spin", _Spin())]


def identity(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """One stage that does nothing, to measure what the engine itself costs."""
    return [("identity", _Identity())]


def obedient(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """One stage that the payload commands; ``stages[0]["suffix"]`` is appended to ``UPPR`` results."""
    suffix = stages[0]["suffix"].encode() if stages else b""
    return [("obedient", _Obedient(suffix))]


def refusing(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """Cannot be built."""
    raise ConfigError("this chain cannot be built", where="stages.0", next_step="use another chain")


def crashing(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """Kills the process that builds it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return []
