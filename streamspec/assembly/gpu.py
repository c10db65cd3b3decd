"""The pool of GPU memory, where NVML works. It outlives reloads, as the grants that it gave do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from streamspec.actuators.gpu_memory import GpuMemory
from streamspec.assembly.parts import Level
from streamspec.core.actuation import Readiness
from streamspec.core.control import LanePlan, Plan
from streamspec.core.resources import Refusal
from streamspec.links import cuda
from streamspec.monitors.gpu import GpuMonitor
from streamspec.telemetry.nvml import DeviceUse
from streamspec.telemetry.state import KnobStatus

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.profiler.profiler import Profiler

RESOURCE = "gpu_memory_bytes"
PROFILER = "profiler"
CONTEXT_BYTES = 512 << 20
"""Set aside for the profiler: it keeps nothing on the device, and its context takes about so much."""
_log = structlog.get_logger("streamspec.gpu")


def wants_gpu(config: ServiceConfig) -> bool:
    """Whether some part is to use a device where there is one."""
    return any(getattr(part, "device", "cpu") != "cpu" for part in (*config.stages, config.profiler))


class GpuPool:
    """Implements ``Part``; opened before the workers start, so that stages can have their memory from the beginning.

    Attributes:
        uses: what each device was doing in the last second.

    Args:
        dispatcher: whose grants get the pool.
        limit_bytes: most that is granted on one device; 0: all of it.
        library: instead of ``pynvml``.
        wanted: something is configured to use a device, so that it is said aloud where there is none.
    """

    name = "gpu_memory"
    told: Level = "debug"  # :meth:`open` says it, before workers could

    def __init__(
        self, dispatcher: Dispatcher, limit_bytes: int = 0, *, library: Any | None = None, wanted: bool = False
    ) -> None:
        self.wanted = wanted
        self._dispatcher = dispatcher
        self._memory = GpuMemory(self._pids, limit_bytes=limit_bytes, library=library)
        self._ready: Readiness | None = None
        self._used: dict[int, int] = {}
        self._monitor = GpuMonitor(library)
        self.uses: Sequence[DeviceUse] = ()
        self._lent: Profiler | None = None

    async def open(self) -> Readiness:
        """See ``Part``. A driver that takes its time holds up nothing else."""
        if self._ready is None:
            self._ready = await asyncio.to_thread(asyncio.run, self._memory.probe())
            if self._ready.active:
                self._dispatcher.grants.pools[RESOURCE] = self._memory
            elif self.wanted:
                reason, next_step = self._ready.reason, self._ready.next_step
                _log.warning("no GPU, the CPU does the work", reason=reason, next_step=next_step, always=True)
        return self._ready

    def lend(self, profiler: Profiler | None) -> None:
        """Open a device for the profiler, when it is to have one and there is one. The one before loses its own."""
        if self._lent is not None and self._lent.gpu is not None:
            self._lent.gpu.close()
        self._lent = profiler
        if profiler is None or profiler.device == "cpu" or self._ready is None or not self._ready.active:
            return
        taken = self._memory.take(PROFILER, CONTEXT_BYTES)
        if isinstance(taken, Refusal):
            _log.warning("profiler goes on without a GPU", reason="refused", detail=taken.reason, always=True)
            return
        device = None
        try:
            device = cuda.open_device(taken.place, 0)
            profiler.use_gpu(device, self._dispatcher.arena, partial(self._memory.give_back, PROFILER, taken))
        except cuda.DeviceFault as fault:
            if device is not None:
                device.close()
            self._memory.give_back(PROFILER, taken)
            _log.warning("profiler goes on without a GPU", reason=fault.reason, detail=str(fault), always=True)

    async def apply(self, plan: Plan) -> None:
        """See ``Part``: reads back what workers use. What others take is taken back from grants by ``reclaim``."""
        if self._ready is not None and self._ready.active:
            self._used = await asyncio.to_thread(self._memory.used_by_pid)
            self.uses = await asyncio.to_thread(self._monitor.sample)

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``."""
        found = next((known for known in self._dispatcher.lanes if known.name == lane.name), None)
        grants = self._dispatcher.grants
        if found is None or self._ready is None or not self._ready.active:
            return ()
        indices = {worker.index for worker in found.workers}
        granted = [
            size
            for stage in grants.stages_with(RESOURCE)
            for index, size in grants.granted(stage, RESOURCE).items()
            if index in indices
        ]
        used = [self._used[worker.pid] for worker in found.workers if worker.pid in self._used]
        if not granted and not lane.allocation.gpu_memory_bytes:
            return ()
        desired = float(lane.allocation.gpu_memory_bytes) or sum(granted)
        return (KnobStatus(RESOURCE, "bytes", desired, sum(granted), float(sum(used)) if used else None),)

    async def close(self) -> None:
        """See ``Part``."""
        self.lend(None)
        self._dispatcher.grants.pools.pop(RESOURCE, None)
        self._ready = None
        self.uses = ()
        self._monitor.close()
        await self._memory.restore()

    def _pids(self) -> list[int]:
        return [os.getpid(), *(worker.pid for worker in self._dispatcher.fleet.workers.values())]
