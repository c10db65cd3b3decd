"""A stand-in for ``pynvml``: devices with memory and processes that a test moves; MIG where it says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """What the real one raises."""


@dataclass
class Device:
    """One GPU or MIG instance; ``processes``: pid to bytes, ``None`` where NVML does not tell."""

    total: int = 16 << 30
    used: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    instances: list[Device] = field(default_factory=list)
    uuid: str = ""
    name: str = "GPU"
    gpu_percent: int = 0
    memory_percent: int = 0
    temperature: int = 40
    power_milliwatts: int = 50_000
    clocks_megahertz: tuple[int, int] = (1500, 2600)
    broken: bool = False


class StandInNvml:
    """Has the functions of ``pynvml`` that are used; those of a broken device raise."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(self, devices: list[Device], *, driver: bool = True) -> None:
        self.devices = devices
        self.driver = driver
        self.sessions = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:
        return self.devices[index]

    def nvmlDeviceGetMigMode(self, device: Device) -> list[int]:
        return [int(bool(device.instances))] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Device) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Device, index: int) -> Device:
        if index >= len(device.instances):
            raise NVMLError("Not Found")
        return device.instances[index]

    def nvmlDeviceGetUUID(self, device: Device) -> str:
        return device.uuid

    def nvmlDeviceGetName(self, device: Device) -> str:
        return device.name

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> Any:
        self._check(device)
        return SimpleNamespace(total=device.total, used=device.used)

    def nvmlDeviceGetComputeRunningProcesses(self, device: Device) -> list[Any]:
        self._check(device)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.processes.items()]

    def nvmlDeviceGetGraphicsRunningProcesses(self, device: Device) -> list[Any]:
        raise NVMLError("Not Supported")

    def nvmlDeviceGetUtilizationRates(self, device: Device) -> Any:
        self._check(device)
        return SimpleNamespace(gpu=device.gpu_percent, memory=device.memory_percent)

    def nvmlDeviceGetTemperature(self, device: Device, sensor: int) -> int:
        self._check(device)
        return device.temperature

    def nvmlDeviceGetPowerUsage(self, device: Device) -> int:
        self._check(device)
        return device.power_milliwatts

    def nvmlDeviceGetClockInfo(self, device: Device, kind: int) -> int:
        self._check(device)
        return device.clocks_megahertz[kind - 1]

    @staticmethod
    def _check(device: Device) -> None:
        if device.broken:
            raise NVMLError("GPU is lost")
