"""The pool of GPU memory in a service whose NVML is simulated: several devices, what others take, what is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import structlog

from streamspec.assembly.gpu import RESOURCE, GpuPool
from streamspec.core.control import Plan
from streamspec.engine.grants import Grants
from streamspec.engine.wire import decode_control
from streamspec.testing.nvml import Device, StandInNvml

GIB = 1 << 30


@dataclass
class Holder:
    """A worker that acts on what it is told, or not."""

    index: int
    grants: Grants
    pid: int = 0
    obeys: bool = True
    told: list[dict[str, Any]] = field(default_factory=list)

    def send(self, message: bytes) -> bool:
        content = decode_control(message)["resources"]
        self.told.append(content)
        if "change" in content and self.obeys:
            self.grants.told(self, {"changed": content["change"], "amounts": content["amounts"]})
        return True

    def ask(self, amount: int) -> dict[str, Any]:
        self.grants.told(self, {"ask": 1, "stage": "inspect", "amounts": {RESOURCE: amount}})
        return self.told[-1]


def _pool(devices: list[Device], **options: Any) -> tuple[GpuPool, Grants, StandInNvml]:
    grants, library = Grants({}), StandInNvml(devices, driver=bool(devices))
    fleet = SimpleNamespace(workers={})
    dispatcher = SimpleNamespace(grants=grants, fleet=fleet, lanes=[])
    return GpuPool(cast(Any, dispatcher), library=library, **options), grants, library


async def test_workers_are_spread_over_devices_and_what_others_take_is_taken_back_where_it_lies() -> None:
    first, second = Device(total=4 * GIB), Device(instances=[Device(total=3 * GIB, uuid="MIG-1")])
    pool, grants, library = _pool([first, second])
    await pool.open()
    holders = [Holder(index, grants) for index in (1, 2, 3)]
    assert [holder.ask(2 * GIB).get("place") for holder in holders] == ["0", "MIG-1", None]
    assert "left on any device" in holders[2].told[-1]["refused"]
    first.used, first.processes = 3 * GIB, {99: 3 * GIB}
    (shrunk,) = grants.reclaim()
    assert shrunk.holder is holders[0]
    assert grants.granted("inspect", RESOURCE) == {1: 0.75 * GIB, 2: 2 * GIB}
    assert "taken back: more is in use than there is" in holders[0].told[-1]["reason"]
    assert grants.reclaim() == []
    await pool.apply(cast(Plan, None))
    assert [(use.place, use.used_bytes, use.by_pid) for use in pool.uses] == [
        ("0", 3 * GIB, {"99": 3 * GIB}),
        ("MIG-1", 0, {}),
    ]
    await pool.close()
    assert library.sessions == 0
    assert pool.uses == ()


async def test_what_a_worker_has_not_freed_yet_is_not_given_to_another() -> None:
    device = Device(total=4 * GIB)
    pool, grants, _ = _pool([device])
    await pool.open()
    slow, other = Holder(1, grants, obeys=False), Holder(2, grants)
    slow.ask(3 * GIB)
    device.used, device.processes = 2 * GIB, {99: 2 * GIB}
    assert len(grants.reclaim()) == 1
    device.used, device.processes = 0, {}
    assert "refused" in other.ask(2 * GIB)
    grants.told(slow, {"changed": slow.told[-1]["change"], "amounts": slow.told[-1]["amounts"]})
    assert "grant" in other.ask(2 * GIB)
    await pool.close()


async def test_without_a_driver_it_is_said_once_and_only_to_those_who_want_one() -> None:
    for wanted in (True, False):
        pool, grants, _ = _pool([], wanted=wanted)
        with structlog.testing.capture_logs() as logs:
            await pool.open()
            await pool.open()
        assert [line["event"] for line in logs] == ["no GPU, the CPU does the work"] * wanted
        assert RESOURCE not in grants.pools
        await pool.close()
