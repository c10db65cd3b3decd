"""The pool of GPU memory, where NVML works. It outlives reloads, as the grants that it gave do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog

from streamspec.actuators.gpu_memory import GpuMemory
from streamspec.assembly.parts import Level
from streamspec.core.actuation import Readiness
from streamspec.core.control import LanePlan, Plan
from streamspec.telemetry.state import KnobStatus

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig
    from streamspec.engine.dispatcher import Dispatcher

RESOURCE = "gpu_memory_bytes"
_log = structlog.get_logger("streamspec.gpu")


def wants_gpu(config: ServiceConfig) -> bool:
    """Whether some part is to use a device where there is one."""
    return any(getattr(part, "device", "cpu") != "cpu" for part in (*config.stages, config.profiler))


class GpuPool:
    """Implements ``Part``; opened before the workers start, so that stages can have their memory from the beginning.

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

    async def apply(self, plan: Plan) -> None:
        """See ``Part``: reads back what workers use. What others take is taken back from grants by ``reclaim``."""
        if self._ready is not None and self._ready.active:
            self._used = await asyncio.to_thread(self._memory.used_by_pid)

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
        self._dispatcher.grants.pools.pop(RESOURCE, None)
        self._ready = None
        await self._memory.restore()

    def _pids(self) -> list[int]:
        return [os.getpid(), *(worker.pid for worker in self._dispatcher.fleet.workers.values())]
