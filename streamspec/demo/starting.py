"""What a start does before the first segment: on a fresh installation it compiles kernels, and the demo says so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = Path(__file__).parents[2]
PERIOD_SECONDS = 0.25


def compiled_kernels() -> int:
    """Kernels in numba's caches of the service and of the traffic generator."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return sum(1 for _ in Path(chosen).rglob("*.nbc"))
    return sum(1 for name in ("streamspec", "loadgen") for _ in (PACKAGES / name).rglob("*.nbc"))


class StartWatch:
    """Tells how a start goes on. A thread of its own, because compiling holds up the event loop.

    Args:
        tell: called four times a second from that thread with the seconds since :meth:`start` and the kernels that
            were compiled meanwhile; 0 while all came from the cache.
    """

    def __init__(self, tell: Callable[[float, int], None]) -> None:
        self._tell = tell
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="start watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        begun, before = time.monotonic(), compiled_kernels()
        while True:
            self._tell(time.monotonic() - begun, max(compiled_kernels() - before, 0))
            if self._stop.wait(PERIOD_SECONDS):
                return
