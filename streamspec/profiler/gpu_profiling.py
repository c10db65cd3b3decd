"""The profiler's device: which batches go there, and what is done when it fails. Features are the same either way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import structlog

from streamspec.core.device_choice import DeviceChoice
from streamspec.core.interfaces import Bytes, Counts
from streamspec.links.cuda import DeviceFault
from streamspec.profiler.histogram_kernels import Row
from streamspec.profiler.kernels import Scratch
from streamspec.profiler.profiler import DeviceWish
from streamspec.profiler.sampling_kernels import BLOCK_BYTES

if TYPE_CHECKING:
    from streamspec.profiler.gpu_features import GpuFeatures

_log = structlog.get_logger("streamspec.gpu")

CPU, GPU = 0, 1

ByCpu = Callable[[Bytes, Counts, int, Scratch, Row], None]


class GpuProfiling:
    """Profiles batches, on a device where that is expected to be faster. For one thread.

    Only segments that are read whole go to the device: of a sample there is too little to count.

    Args:
        wish: ``gpu``: whatever can go there; ``auto``: what is expected to be faster there.
        features: the device's half.
        released: called once when the device is of no more use.

    Attributes:
        segments: profiled on the device.
        faults: segments that the CPU had to profile in its place, by reason.
    """

    def __init__(
        self, wish: DeviceWish, features: GpuFeatures, released: Callable[[], object], *, sample_bytes: int
    ) -> None:
        self.segments = 0
        self.faults: dict[str, int] = {}
        self.choice = DeviceChoice()
        self._wish = wish
        self._features: GpuFeatures | None = features
        self._released = released
        self._sample_bytes = sample_bytes
        self._longest_whole = max(sample_bytes, BLOCK_BYTES)  # see ``sampling_kernels.block_count``

    def serves(self, memory: Bytes) -> bool:
        """Whether segments in that memory can go to the device."""
        return self._features is not None and self._features.memory is memory

    def profile(self, memory: Bytes, rows: Counts, count: int, scratch: Scratch, out: Row, cpu: ByCpu) -> None:
        """Fill ``out``.

        Args:
            rows: as for ``gpu_finish_kernels.finish``; ``count`` of them.
            cpu: what the CPU does with such a batch.
        """
        lengths = rows[1, :count]
        whole = None if self._sample_bytes <= 0 or int(lengths.max()) <= self._longest_whole else self._whole(lengths)
        size_bytes = int(lengths.sum() if whole is None else lengths[whole].sum())
        device = self._choose(size_bytes)
        begun_ns = time.perf_counter_ns()
        if device == CPU and whole is None:
            cpu(memory, rows, count, scratch, out)
        elif device == GPU and not self._on_device(rows, np.arange(count) if whole is None else whole, scratch, out):
            cpu(memory, rows, count, scratch, out)
            return
        elif device == CPU:
            self._some(memory, rows, whole, scratch, out, cpu)
        if size_bytes and self._wish == "auto":
            self.choice.learn(device, size_bytes, (time.perf_counter_ns() - begun_ns) / 1e9)
        if whole is not None:
            self._some(memory, rows, np.flatnonzero(lengths > self._longest_whole), scratch, out, cpu)

    def summary(self) -> dict[str, int]:
        """Segments profiled on the device, and those that it should have, by reason."""
        return {"on_gpu": self.segments, **{f"gpu_{reason}": count for reason, count in self.faults.items()}}

    def close(self) -> None:
        """Let go of the device; the CPU does everything from then on. Safe to call twice."""
        features, self._features = self._features, None
        if features is not None:
            features.close()
            self._released()

    def _whole(self, lengths: Counts) -> Counts:
        return np.flatnonzero(lengths <= self._longest_whole)

    def _choose(self, size_bytes: int) -> int:
        if self._features is None or not size_bytes:
            return CPU
        return GPU if self._wish == "gpu" else self.choice.choose(size_bytes)

    def _on_device(self, rows: Counts, chosen: Counts, scratch: Scratch, out: Row) -> bool:
        assert self._features is not None
        try:
            self._features.profile(rows, chosen, scratch, out)
        except DeviceFault as fault:
            self.faults[fault.reason] = self.faults.get(fault.reason, 0) + len(chosen)
            _log.warning("profiler goes on without a GPU", reason=fault.reason, detail=str(fault), always=True)
            self.close()
            return False
        self.segments += len(chosen)
        return True

    @staticmethod
    def _some(memory: Bytes, rows: Counts, chosen: Counts | None, scratch: Scratch, out: Row, cpu: ByCpu) -> None:
        if chosen is not None and len(chosen):
            found = np.empty((len(chosen), out.shape[1]), dtype=np.float32)
            cpu(memory, np.ascontiguousarray(rows[:, chosen]), len(chosen), scratch, found)
            out[chosen] = found
