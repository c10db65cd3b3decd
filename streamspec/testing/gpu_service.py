"""A service on simulated devices: ``NUMBA_ENABLE_CUDASIM=1 python -m streamspec.testing.gpu_service CONFIG``.

The service, its workers, arena and grants are real; NVML is :class:`~streamspec.testing.nvml.StandInNvml`, and kernels
run in numba's simulator. ``--fault launch:device_lost:20`` lets the driver of each worker fail at its 20th launch,
``--crowd 100`` lets another process take all device memory once 100 segments are finished. Prints the summary as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import uvloop

from streamspec import app
from streamspec.assembly.gpu import RESOURCE, GpuPool
from streamspec.config import load_config
from streamspec.core.interfaces import Stage
from streamspec.links import cuda
from streamspec.stages import chain
from streamspec.telemetry.logging import configure_logging
from streamspec.testing.cuda import FaultyDevice
from streamspec.testing.nvml import Device, StandInNvml
from streamspec.testing.waiting import until

FAULT = "STREAMSPEC_TESTING_GPU_FAULT"
OTHER_PID = 1


def build_chain(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """In a worker: the chain, on a device that fails as the environment says."""
    step, _, rest = os.environ.get(FAULT, "").partition(":")
    reason, _, after = rest.partition(":")

    def open_device(place: str, limit_bytes: int) -> cuda.Device:
        device = FaultyDevice(place, limit_bytes)
        if step:
            device.fail(step, cuda.fault_reason(reason), after=int(after or 0))
        return device

    cuda.open_device = open_device
    return chain.build_chain(stages)


async def _crowd(service: app.Service, device: Device, finished: int, told: dict[str, Any]) -> None:
    """Take all memory of the device once so many segments are finished; note how long it takes to be given back."""
    accounts, grants = service.dispatcher.accounts, service.dispatcher.grants
    await until(lambda: accounts.delivered_segments >= finished)

    def granted() -> float:
        return sum(sum(grants.granted(stage, RESOURCE).values()) for stage in grants.stages_with(RESOURCE))

    told["granted_before"] = granted()
    device.used, device.processes[OTHER_PID] = device.total, device.total
    begun = time.monotonic()
    await until(lambda: granted() == 0)
    told["given_back_seconds"] = time.monotonic() - begun
    told["delivered_then"] = accounts.delivered_segments


async def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    config = load_config(arguments.config)
    configure_logging(config.logging.level, "json")
    service = app.Service(config)
    devices = [Device(total=arguments.memory_mib << 20) for _ in range(arguments.devices)]
    library = StandInNvml(devices, driver=arguments.devices > 0)
    service.gpu = GpuPool(service.dispatcher, library=library, wanted=service.gpu.wanted)
    service.install_signals()
    told: dict[str, Any] = {}
    task = asyncio.create_task(_crowd(service, devices[0], arguments.crowd, told)) if arguments.crowd else None
    try:
        code = await service.run()
    finally:
        if task is not None:
            task.cancel()
    return {**service.summary(), "exit_code": code, "gpu": told}


def main() -> int:
    """Run it to its end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--memory-mib", type=int, default=1024)
    parser.add_argument("--fault", default="")
    parser.add_argument("--crowd", type=int, default=0)
    arguments = parser.parse_args()
    os.environ[FAULT] = arguments.fault
    vars(app)["FACTORY"] = "streamspec.testing.gpu_service:build_chain"
    summary = uvloop.run(_run(arguments))
    print(json.dumps(summary))
    return int(summary["exit_code"])


if __name__ == "__main__":
    raise SystemExit(main())
