"""The ledger of GPU memory: what was granted, checked against what NVML says is there.

Nothing in the driver keeps a process to an amount, so this is a budget: workers that own a device set the limit
of their framework's pool to their grant. What other processes use counts, also when they come later: then
:meth:`GpuMemory.overdraft` says how much has to be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from streamspec.core.actuation import Applied, Readiness
from streamspec.core.resources import Refusal, ResourceRequest, Taken
from streamspec.core.units import format_bytes
from streamspec.telemetry.nvml import DeviceMemory, Nvml, NvmlMissing

RESERVE_BYTES = 256 << 20
"""Left free on each device: a context alone takes some hundred MiB that no framework's pool counts."""
NEXT_STEP = "install the NVIDIA driver, or start the container with `--gpus all`"


class GpuMemory:
    """Implements ``Pool``, and ``Actuator`` by device, whose setting is the pool's limit in bytes.

    Args:
        own_pids: of this service: what they use is what was granted.
        limit_bytes: most that is granted on one device; 0: all of it.
        library: instead of ``pynvml``.
    """

    name = "gpu_memory"

    def __init__(
        self, own_pids: Callable[[], Iterable[int]], *, limit_bytes: int = 0, library: Any | None = None
    ) -> None:
        self._own_pids = own_pids
        self._limit_bytes = limit_bytes
        self._limits: dict[str, int] = {}
        self._library = library
        self._nvml: Nvml | None = None
        self._granted: dict[str, dict[str, float]] = {}

    # -- Actuator -------------------------------------------------------------------------------
    async def probe(self) -> Readiness:
        """See ``Actuator``."""
        if self._nvml is None:
            try:
                self._nvml = Nvml(self._library)
            except NvmlMissing as error:
                return Readiness(self.name, False, "", str(error), NEXT_STEP)
        return Readiness(self.name, True, f"budget on {len(self._nvml.places)} GPU{'s'[: len(self._nvml.places) > 1]}")

    async def apply(self, desired: Mapping[str, int]) -> Applied[str, int]:
        """See ``Actuator``: other limits for these devices."""
        places = () if self._nvml is None else self._nvml.places
        refused = {place: "there is no such device" for place in desired if place not in places}
        self._limits |= {place: limit for place, limit in desired.items() if place in places}
        return Applied(await self.read_back(), refused)

    async def read_back(self) -> Mapping[str, int]:
        """See ``Actuator``: by device, what may be granted in all at present."""
        places = () if self._nvml is None else self._nvml.places
        return {place: int(max(0, self._ceiling(place))) for place in places}

    async def restore(self) -> None:
        """See ``Actuator``: ends the session with NVML; the host was never changed."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            nvml.close()

    # -- Pool -----------------------------------------------------------------------------------
    def take(self, holder: str, amount: float, place: str = "") -> Taken | Refusal:
        """See ``Pool``: on the device with the most room, or on ``place``."""
        if self._nvml is None:
            return Refusal(f"there is no GPU here ({NEXT_STEP})")
        free = {name: self._free(name) for name in ([place] if place else self._nvml.places)}
        best = max(free, key=lambda name: free[name])
        if amount > free[best]:
            where = f"device {best}" if place or len(free) == 1 else "any device"
            reason = f"gpu_memory {format_bytes(amount)} asked for, {format_bytes(free[best])} left on {where}"
            others = self._others(best)
            if others:
                reason += f" ({format_bytes(others)} are used by other processes)"
            return Refusal(reason, ResourceRequest(gpu_memory_bytes=int(free[best])))
        of_device = self._granted.setdefault(best, {})
        of_device[holder] = of_device.get(holder, 0.0) + amount
        return Taken(amount, best)

    def give_back(self, holder: str, taken: Taken) -> None:
        """See ``Pool``."""
        of_device = self._granted.get(taken.place, {})
        left = of_device.get(holder, 0.0) - taken.amount
        if left > 0:
            of_device[holder] = left
        else:
            of_device.pop(holder, None)

    def available(self) -> float:
        """See ``Pool``."""
        return max((self._free(place) for place in self._nvml.places), default=0.0) if self._nvml is not None else 0.0

    def overdraft(self) -> Mapping[str, float]:
        """See ``Pool``."""
        over = {place: self.granted(place) - self._ceiling(place) for place in self._granted}
        return {place: excess for place, excess in over.items() if excess > 0 and self.granted(place)}

    # -- parts ----------------------------------------------------------------------------------
    def used_by_pid(self) -> dict[int, int]:
        """Bytes that this service's processes use on all devices, where NVML tells."""
        own, found = set(self._own_pids()), dict[int, int]()
        for place in () if self._nvml is None else self._nvml.places:
            memory = self._memory(place)
            for pid, used in ({} if memory is None else memory.by_pid).items():
                if pid in own and used is not None:
                    found[pid] = found.get(pid, 0) + used
        return found

    def granted(self, place: str) -> float:
        """Bytes granted on one device."""
        return sum(self._granted.get(place, {}).values())

    def _free(self, place: str) -> float:
        return max(0.0, self._ceiling(place) - self.granted(place))

    def _ceiling(self, place: str) -> float:
        """What may be granted on the device in all: its memory without what others use, within the limit."""
        memory = self._memory(place)
        if memory is None:
            return 0.0
        limit = self._limits.get(place, self._limit_bytes) or memory.total_bytes
        return min(limit, memory.total_bytes - RESERVE_BYTES - self._others_of(place, memory))

    def _others(self, place: str) -> float:
        memory = self._memory(place)
        return 0.0 if memory is None else self._others_of(place, memory)

    def _others_of(self, place: str, memory: DeviceMemory) -> float:
        """Where NVML does not tell the use of our processes, it is taken to be what they were granted."""
        own = set(self._own_pids())
        told = [used for pid, used in memory.by_pid.items() if pid in own]
        ours = sum(used for used in told if used is not None)
        if None in told or not memory.by_pid:
            ours = max(ours, min(int(self.granted(place)), memory.used_bytes))
        return float(max(0, memory.used_bytes - ours))

    def _memory(self, place: str) -> DeviceMemory | None:
        return None if self._nvml is None else self._nvml.memory(place)
