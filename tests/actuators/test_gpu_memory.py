"""The ledger of GPU memory against an NVML that the test moves; the real one where there is no GPU."""

from __future__ import annotations

import importlib

import pytest

from streamspec.actuators.gpu_memory import RESERVE_BYTES, GpuMemory
from streamspec.core.resources import Refusal, ResourceRequest, Taken
from streamspec.testing.nvml import Device, NVMLError, StandInNvml

GIB = 1 << 30
OWN, OTHER = 100, 200


async def _ledger(*devices: Device, limit_bytes: int = 0) -> GpuMemory:
    ledger = GpuMemory(lambda: [OWN], limit_bytes=limit_bytes, library=StandInNvml(list(devices)))
    assert (await ledger.probe()).active
    return ledger


async def test_grants_add_up_to_no_more_than_the_device_has_and_are_free_again() -> None:
    ledger = await _ledger(Device(total=8 * GIB))
    assert ledger.take("a", 5 * GIB) == Taken(5 * GIB, "0")
    refusal = ledger.take("b", 4 * GIB)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "gpu_memory 4.0 GiB asked for, 2.8 GiB left on device 0"
    assert refusal.available == ResourceRequest(gpu_memory_bytes=3 * GIB - RESERVE_BYTES)
    ledger.give_back("a", Taken(4 * GIB, "0"))
    assert isinstance(ledger.take("b", 4 * GIB), Taken)
    ledger.give_back("b", Taken(4 * GIB, "0"))
    ledger.give_back("a", Taken(GIB, "0"))
    assert ledger.available() == 8 * GIB - RESERVE_BYTES


async def test_what_other_processes_use_counts_and_what_ours_use_does_not_twice() -> None:
    device = Device(total=8 * GIB)
    ledger = await _ledger(device)
    ledger.take("a", 2 * GIB)
    device.used, device.processes = 4 * GIB, {OWN: 2 * GIB, OTHER: 2 * GIB}
    assert ledger.available() == 4 * GIB - RESERVE_BYTES
    refusal = ledger.take("b", 5 * GIB)
    assert isinstance(refusal, Refusal)
    assert "(2.0 GiB are used by other processes)" in refusal.reason
    device.used, device.processes[OTHER] = 9 * GIB, 7 * GIB
    assert ledger.overdraft() == {"0": 7 * GIB + RESERVE_BYTES + 2 * GIB - 8 * GIB}


async def test_where_nvml_does_not_tell_the_use_of_ours_it_is_what_was_granted() -> None:
    device = Device(total=8 * GIB)
    ledger = await _ledger(device)
    ledger.take("a", 2 * GIB)
    device.used, device.processes = 3 * GIB, {OWN: None}
    assert ledger.available() == 5 * GIB - RESERVE_BYTES


async def test_the_device_with_the_most_room_is_taken_and_limits_hold() -> None:
    first, second = Device(total=8 * GIB, used=6 * GIB, processes={OTHER: 6 * GIB}), Device(total=8 * GIB)
    ledger = await _ledger(first, second, limit_bytes=3 * GIB)
    assert ledger.take("a", 2 * GIB) == Taken(2 * GIB, "1")
    refusal = ledger.take("b", 2 * GIB)
    assert isinstance(refusal, Refusal)
    assert "left on any device" in refusal.reason
    assert (await ledger.apply({"1": 1 * GIB, "7": GIB})).refused == {"7": "there is no such device"}
    assert (await ledger.read_back())["1"] == GIB
    assert ledger.overdraft() == {"1": GIB}
    assert isinstance(ledger.take("c", GIB, "1"), Refusal)


async def test_mig_instances_are_devices_and_a_lost_device_has_nothing() -> None:
    parent = Device(instances=[Device(total=4 * GIB, uuid="MIG-a"), Device(total=2 * GIB, uuid="MIG-b")])
    lost = Device(broken=True)
    ledger = await _ledger(parent, lost)
    assert set(await ledger.read_back()) == {"MIG-a", "MIG-b", "1"}
    assert ledger.take("a", 3 * GIB) == Taken(3 * GIB, "MIG-a")
    assert isinstance(ledger.take("b", 1, "1"), Refusal)


async def test_without_a_driver_it_says_so_and_refuses() -> None:
    ledger = GpuMemory(list, library=StandInNvml([], driver=False))
    ready = await ledger.probe()
    assert not ready.active
    assert ready.reason == "Driver Not Loaded"
    assert isinstance(ledger.take("a", 1), Refusal)
    assert ledger.available() == 0
    assert ledger.overdraft() == {}
    none = GpuMemory(list, library=StandInNvml([]))
    assert (await none.probe()).reason == "there is no GPU"


async def test_the_real_library_is_asked() -> None:
    pynvml = importlib.import_module("pynvml")
    for name in dir(StandInNvml):
        if name.startswith(("nvml", "NVML_")):
            assert hasattr(pynvml, name), name
    ledger = GpuMemory(list)
    ready = await ledger.probe()
    assert ready.active != bool(ready.reason)
    await ledger.restore()
    assert NVMLError is not pynvml.NVMLError
    if not ready.active:
        pytest.skip("no NVIDIA GPU on this host")
