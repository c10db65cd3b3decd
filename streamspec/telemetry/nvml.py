"""The few questions to NVML that are asked here, with its errors turned into values.

``pynvml`` (nvidia-ml-py) is passed in; tests pass their own. A MIG instance is a device of its own, with its
UUID as its place; its parent is then not used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one device (or MIG instance) as NVML says.

    Attributes:
        total_bytes, used_bytes: of the device, with what all processes use.
        by_pid: bytes per process; a process whose use NVML does not tell (MIG, some drivers) has ``None``.
    """

    total_bytes: int
    used_bytes: int
    by_pid: dict[int, int | None]


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What a device is doing; ``None`` where it does not tell (MIG instances tell no use, passive boards no fan).

    Attributes:
        place: index as text, or UUID of a MIG instance.
        name: of the product.
        busy_ratio: share of the last sample period in which a kernel ran.
        memory_busy_ratio: share in which memory was read or written.
        total_bytes, used_bytes: memory.
        temperature_celsius, power_watts: of the board.
        clock_hertz, memory_clock_hertz: of the processors and of the memory, now.
        by_pid: bytes of each process of which NVML tells them, by process id as text.
    """

    place: str
    name: str
    busy_ratio: float | None
    memory_busy_ratio: float | None
    total_bytes: int
    used_bytes: int
    temperature_celsius: float | None
    power_watts: float | None
    clock_hertz: float | None = None
    memory_clock_hertz: float | None = None
    by_pid: Mapping[str, int] = field(default_factory=dict)


class Nvml:
    """A session with NVML. Raises ``NvmlMissing`` when there is no driver or no device.

    Args:
        library: the module ``pynvml``, or what stands for it.
    """

    def __init__(self, library: Any | None = None) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml") if library is None else library
            self._nvml.nvmlInit()
        except ImportError as error:
            raise NvmlMissing(str(error)) from error
        except self._nvml.NVMLError as error:
            raise NvmlMissing(str(error)) from error
        self._handles = self._find()
        if not self._handles:
            self.close()
            raise NvmlMissing("there is no GPU")

    @property
    def places(self) -> tuple[str, ...]:
        """Devices: the index of a GPU as text, or the UUID of a MIG instance."""
        return tuple(self._handles)

    def memory(self, place: str) -> DeviceMemory | None:
        """``None`` when the device does not answer (it fell off the bus)."""
        handle = self._handles[place]
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is None:
            return None
        return DeviceMemory(int(memory.total), int(memory.used), self._processes(handle))

    def _processes(self, handle: Any) -> dict[int, int | None]:
        found: dict[int, int | None] = {}
        for question in (
            self._nvml.nvmlDeviceGetComputeRunningProcesses,
            self._nvml.nvmlDeviceGetGraphicsRunningProcesses,
        ):
            for process in self._ask(question, handle) or ():
                found[int(process.pid)] = None if process.usedGpuMemory is None else int(process.usedGpuMemory)
        return found

    def use(self, place: str) -> DeviceUse | None:
        """``None`` when the device does not answer."""
        nvml, handle = self._nvml, self._handles[place]
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        if memory is None:
            return None
        rates = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        milliwatts = self._ask(nvml.nvmlDeviceGetPowerUsage, handle)
        name = self._ask(nvml.nvmlDeviceGetName, handle)
        return DeviceUse(
            place,
            name.decode() if isinstance(name, bytes) else str(name or ""),
            None if rates is None else rates.gpu / 100,
            None if rates is None else rates.memory / 100,
            int(memory.total),
            int(memory.used),
            None if celsius is None else float(celsius),
            None if milliwatts is None else milliwatts / 1000,
            self._clock_hertz(handle, nvml.NVML_CLOCK_SM),
            self._clock_hertz(handle, nvml.NVML_CLOCK_MEM),
            {str(pid): used for pid, used in self._processes(handle).items() if used is not None},
        )

    def _clock_hertz(self, handle: Any, kind: int) -> float | None:
        megahertz = self._ask(self._nvml.nvmlDeviceGetClockInfo, handle, kind)
        return None if megahertz is None else megahertz * 1e6

    def close(self) -> None:
        """End the session."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            pass

    def _find(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for index in range(self._ask(self._nvml.nvmlDeviceGetCount) or 0):
            handle = self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is None:
                continue
            instances = self._instances(handle)
            found |= instances or {str(index): handle}
        return found

    def _instances(self, handle: Any) -> dict[str, Any]:
        mode = self._ask(self._nvml.nvmlDeviceGetMigMode, handle)
        if not mode or mode[0] != self._nvml.NVML_DEVICE_MIG_ENABLE:
            return {}
        found = {}
        for index in range(self._ask(self._nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
            instance = self._ask(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
            if instance is not None:
                found[str(self._nvml.nvmlDeviceGetUUID(instance))] = instance
        return found

    def _ask(self, question: Callable[..., Result], *arguments: Any) -> Result | None:
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


class NvmlMissing(Exception):
    """No GPU can be asked here; the text says why."""
