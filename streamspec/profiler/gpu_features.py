"""Features of many segments on a device: counted there, finished here while the next ones are counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamspec.core.interfaces import Bytes, Counts
from streamspec.links.cuda import Device, SharedArray
from streamspec.profiler import gpu_kernels as kernels
from streamspec.profiler.gpu_finish_kernels import finish
from streamspec.profiler.histogram_kernels import Row
from streamspec.profiler.kernels import Scratch
from streamspec.profiler.repetition_kernels import PIECE_BYTES

LAUNCH_SEGMENTS = 64
"""Of one launch, 4 MB of full segments; while they are read and counted, the CPU finishes those before."""
LAUNCHES = 4


@dataclass(slots=True)
class _Launch:
    starts: SharedArray
    lengths: SharedArray
    counts: SharedArray
    stats: SharedArray
    marked: SharedArray
    stream: Any
    event: Any = None

    @classmethod
    def on(cls, device: Device, pieces: int) -> _Launch:
        rows = LAUNCH_SEGMENTS
        return cls(
            device.share(rows, np.int64), device.share(rows, np.int64), device.share((rows, 512), np.uint32),
            device.share((rows, kernels.STATS), np.int64), device.share((rows, pieces), np.int32), device.stream(),
        )  # fmt: skip


class GpuFeatures:
    """Of segments in one memory, which is registered with the driver.

    Args:
        device: where.
        memory: all segments lie there.
        longest_bytes: of a segment.
        threads: of a block, a power of two.

    Raises:
        DeviceFault: also from :meth:`profile`; what was asked for is not filled then.
    """

    def __init__(self, device: Device, memory: Bytes, longest_bytes: int, *, threads: int = kernels.THREADS) -> None:
        self.device = device
        self.memory = memory
        self._threads = threads
        self._view = device.register(memory)
        pieces = max(-(-longest_bytes // PIECE_BYTES), 1)
        self._launches = [_Launch.on(device, pieces) for _ in range(LAUNCHES)]
        nothing = np.zeros((2, 1), dtype=np.int64)
        self._start(self._launches[0], nothing, nothing[0])  # compiles; not in front of the first segment
        device.wait(self._launches[0].event)

    def profile(self, rows: Counts, chosen: Counts, scratch: Scratch, out: Row) -> None:
        """Fill ``out[chosen]``. ``rows``: as for ``gpu_finish_kernels.finish``."""
        parts = [chosen[first : first + LAUNCH_SEGMENTS] for first in range(0, len(chosen), LAUNCH_SEGMENTS)]
        for number, part in enumerate(parts):
            if number >= LAUNCHES:
                self._finish(self._launches[number % LAUNCHES], rows, parts[number - LAUNCHES], scratch, out)
            self._start(self._launches[number % LAUNCHES], rows, part)
        for number in range(max(len(parts) - LAUNCHES, 0), len(parts)):
            self._finish(self._launches[number % LAUNCHES], rows, parts[number], scratch, out)

    def close(self) -> None:
        """Give everything back. Never raises."""
        self._launches.clear()
        self._view = None
        self.device.close()

    def _start(self, launch: _Launch, rows: Counts, part: Counts) -> None:
        size = len(part)
        launch.starts.host[:size], launch.lengths.host[:size] = rows[0, part], rows[1, part]
        launch.stats.host[:size] = 0
        launch.marked.host[:size] = 0
        launch.event = self.device.launch(
            kernels.count, size, self._threads, launch.stream, self._view, launch.starts.device, launch.lengths.device,
            launch.counts.device, launch.stats.device, launch.marked.device,
        )  # fmt: skip

    def _finish(self, launch: _Launch, rows: Counts, part: Counts, scratch: Scratch, out: Row) -> None:
        self.device.wait(launch.event)
        counts, stats, marked = launch.counts.host, launch.stats.host, launch.marked.host
        finish(self.memory, rows, part, counts, stats, marked, scratch, out)
