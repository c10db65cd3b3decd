"""Plans act on real worker processes, are read back, and are put back at the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from streamspec.actuators.affinity import Affinity
from streamspec.actuators.cgroup import Cgroup, CgroupPlace
from streamspec.actuators.gpu_memory import RESERVE_BYTES
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.priority import Priority, Urgency
from streamspec.actuators.threads import threads_of
from streamspec.assembly.caches import Caches
from streamspec.assembly.effects import HostEffects, build_effects
from streamspec.assembly.gpu import GpuPool
from streamspec.assembly.parts import Level
from streamspec.assembly.staffing import HostStaffing
from streamspec.assembly.workers import Groups, Levels, weight_of
from streamspec.core.actuation import Applied, Readiness
from streamspec.core.control import LanePlan, Plan
from streamspec.core.pools import AmountPool
from streamspec.core.resources import Allocation, Pool
from streamspec.core.topology import Core, Topology
from streamspec.engine.dispatcher import LaneSpec
from streamspec.engine.router import LaneRule
from streamspec.stages.chain import FACTORY as FACTORY_OF_STAGES
from streamspec.stages.inspect import InspectConfig
from streamspec.telemetry.state import KnobStatus
from streamspec.testing.nvml import Device, StandInNvml
from streamspec.testing.waiting import until
from tests.actuators.test_control_files import KernelLike
from tests.engine.conftest import Bench, running
from tests.services import Receiver, free_port, send, service_config
from tests.services import running as running_service

pytestmark = pytest.mark.slow
MIB = 1 << 20
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


def _lanes(**allocations: Allocation) -> list[LaneSpec]:
    """The first takes the keys that begin with its name, the last takes everything."""
    names = list(allocations)
    return [
        LaneSpec(
            name,
            allocations[name],
            urgency=index,
            rule=LaneRule(lane=index, keys=(name.encode(),) if name != names[-1] else ()),
        )
        for index, name in enumerate(names)
    ]


def _plan(lanes: Sequence[LaneSpec]) -> Plan:
    return Plan(tuple(LanePlan(lane.name, lane.allocation, urgency=lane.urgency) for lane in lanes))


def _topology(*siblings: set[int]) -> Topology:
    """Physical cores, of which each has its own cache."""
    cores = [Core(n, siblings=frozenset(group), cache=frozenset(group)) for group in siblings for n in sorted(group)]
    return Topology(tuple(cores), frozenset(n for group in siblings for n in group))


@asynccontextmanager
async def acting(
    bench: Bench,
    plan: Plan,
    folder: Path,
    *,
    mode: str = "auto",
    topology: Topology | None = None,
    gpu: GpuPool | None = None,
) -> AsyncIterator[HostEffects]:
    """Effects that have brought the bench's workers in line with the plan."""
    config = service_config(9, "127.0.0.1:9")
    effects = build_effects(
        config,
        bench.dispatcher,
        gpu,
        lambda: mode == "auto",
        topology=None if topology is None else lambda: topology,
        notes=Leftovers(folder),
    )
    effects.start(plan)
    try:
        await effects.turned()
        yield effects
    finally:
        await effects.close()


def _knob(effects: HostEffects, lane: str, name: str) -> KnobStatus:
    return next(knob for knob in effects.knobs(lane) if knob.knob == name)


def _cores(bench: Bench, lane: int) -> set[int]:
    pids = [worker.pid for worker in bench.dispatcher.lanes[lane].workers]
    return {core for pid in pids for tid in threads_of(pid) for core in os.sched_getaffinity(tid)}


@two_cores
async def test_lanes_get_cores_by_the_topology_and_own_ones_win(tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(0)
    first, second, *_ = sorted(everywhere)
    lanes = _lanes(own=Allocation(cores=frozenset({first})), rest=Allocation())
    topology = _topology({first}, {second}, {first + 1000})
    async with running(lanes=lanes) as bench:
        async with acting(bench, _plan(lanes), tmp_path, topology=topology) as effects:
            await effects.turned()
            assert (_cores(bench, 0), _cores(bench, 1)) == ({first}, {second})
            assert _knob(effects, "rest", "cores") == KnobStatus("cores", "cores", 1, 1, 1)
            (worker,) = bench.dispatcher.lanes[1].workers
            os.sched_setaffinity(worker.pid, everywhere)  # somebody with `taskset`
            await until(lambda: _cores(bench, 1) == {second})
            worker.kill()  # the one that takes its place gets them at once
            await until(lambda: bench.dispatcher.lanes[1].workers not in ([], [worker]))
            assert _cores(bench, 1) == {second}
            more = {lane.name: replace(lane.allocation, workers=2) for lane in lanes}
            bench.dispatcher.apply_all(more)
            await until(lambda: all(len(lane.workers) == 2 for lane in bench.dispatcher.lanes))
            assert _cores(bench, 0) == {first}
            assert _cores(bench, 1) == everywhere  # more workers than cores: those are everyone's
        assert _cores(bench, 0) == everywhere


@two_cores
async def test_control_that_does_not_act_places_nobody(tmp_path: Path) -> None:
    first, second, *_ = sorted(os.sched_getaffinity(0))
    lanes = _lanes(light=Allocation(), rest=Allocation())
    topology = _topology({first}, {second}, {first + 1000})
    async with running(lanes=lanes) as bench:
        for mode in ("recommend", "off"):
            async with acting(bench, _plan(lanes), tmp_path, mode=mode, topology=topology):
                assert _cores(bench, 0) == _cores(bench, 1) == os.sched_getaffinity(0)


async def test_nice_levels_are_those_of_every_thread(tmp_path: Path) -> None:
    lanes = _lanes(light=Allocation(), rest=Allocation(nice=7))
    async with running(lanes=lanes) as bench, acting(bench, _plan(lanes), tmp_path):
        for lane, nice in zip(bench.dispatcher.lanes, (0, 7), strict=True):
            tids = [tid for worker in lane.workers for tid in threads_of(worker.pid)]
            assert {os.getpriority(os.PRIO_PROCESS, tid) for tid in tids} == {nice}
            assert [worker.granted_nice for worker in lane.workers] == [nice]


async def test_workers_that_cannot_come_back_to_a_level_are_not_chosen_for_it_and_replaced_in_the_end() -> None:
    class Unprivileged(Priority):
        def can_become(self, pid: int, nice: int) -> bool:
            return os.getpriority(os.PRIO_PROCESS, pid) <= nice

        def apply_now(self, desired: Mapping[int, Urgency]) -> Applied[int, Urgency]:
            possible = {pid: urgency for pid, urgency in desired.items() if self.can_become(pid, urgency.nice)}
            return super().apply_now(possible)

    lanes = _lanes(light=Allocation(), rest=Allocation(nice=5))
    async with running(lanes=lanes, workers=3) as bench:
        dispatcher = bench.dispatcher
        priority = Unprivileged()
        staffing = HostStaffing(Affinity(), priority, dispatcher.grants, lambda: _topology({0}), lambda: False)
        dispatcher.staffing = staffing
        dispatcher.assign_workers()
        (nicer,) = dispatcher.lanes[1].workers
        dispatcher.apply_all({"light": Allocation(workers=2), "rest": Allocation(workers=1, nice=5)})
        assert nicer in dispatcher.lanes[1].workers
        dispatcher.set_lanes(_lanes(all=Allocation(workers=2)))
        assert nicer not in dispatcher.lanes[0].workers
        dispatcher.set_lanes(_lanes(all=Allocation(workers=3)))
        assert nicer in dispatcher.lanes[0].workers  # better than none
        levels = Levels(priority, staffing, dispatcher)
        async with asyncio.timeout(30):
            while {worker.granted_nice for worker in dispatcher.lanes[0].workers} != {0}:
                await levels.apply(_plan(_lanes(all=Allocation(workers=3))))
                assert len(dispatcher.lanes[0].workers) == 3  # never fewer than it needs
                await asyncio.sleep(0)
        assert nicer not in dispatcher.lanes[0].workers
        assert dispatcher.fleet.size == 3


async def test_cache_sizes_are_told_to_the_workers_of_a_lane_and_hits_are_seen_by_lane(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- {id: 1, name: x, pattern: evil}")
    config = InspectConfig(type="inspect", rules=(tmp_path / "rules.yaml",), cache_bytes=4 * MIB)
    lanes = _lanes(light=Allocation(), rest=Allocation())
    pools: dict[str, Pool] = {"cache_bytes": AmountPool("cache_bytes", 16 * MIB)}
    options = {"factory": FACTORY_OF_STAGES, "stages": [config.model_dump(mode="json")], "pools": pools}
    async with running(lanes=lanes, **options) as bench, acting(bench, _plan(lanes), tmp_path / "notes") as effects:
        grants, (light, _) = bench.dispatcher.grants, bench.dispatcher.lanes
        assert [cache.granted_bytes for cache in effects.caches()] == [4 * MIB, 4 * MIB]

        def with_cache(size: int) -> Plan:
            first = replace(lanes[0], allocation=replace(lanes[0].allocation, cache_bytes=size))
            return _plan([first, lanes[1]])

        def held() -> dict[int, float]:
            return grants.granted("inspect", "cache_bytes")

        with capture_logs() as lines:
            effects.apply(with_cache(MIB))
            await until(lambda: held()[light.workers[0].index] == MIB)
            assert sorted(held().values()) == [MIB, 4 * MIB]
            effects.apply(with_cache(64 * MIB))  # more than there is
            await effects.turned()
            await effects.turned()
            assert held()[light.workers[0].index] == MIB
            effects.apply(with_cache(0))  # as its stages declare
            await until(lambda: set(held().values()) == {4 * MIB})
        said = [line for line in lines if line["event"] in ("cache resized", "setting refused")]
        assert [line["event"] for line in said] == ["cache resized", "setting refused", "cache resized"]
        async with asyncio.timeout(30):
            while not effects.caches()[0].hits_per_second:
                await bench.feed([(b"light", b"evil %d" % (i % 5)) for i in range(50)])
        assert effects.caches()[1].hits_per_second == effects.caches()[1].misses_per_second == 0
        assert _knob(effects, "light", "cache_bytes") == KnobStatus("cache_bytes", "bytes", *[4.0 * MIB] * 3)


async def test_a_service_shrinks_a_cache_that_nobody_needs_and_says_so(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- {id: 1, name: x, pattern: evil}")
    port = free_port()
    config = service_config(
        port,
        receiver.address,
        stages=[{"type": "inspect", "rules": str(tmp_path / "rules.yaml")}],
        profiles={"database": None},
        learning={"enabled": False},
        control={
            "mode": "auto",
            "policy": {"type": "aimd"},
            "period": "50 ms",
            "window": "100 ms",
            "cache": {"period": "0.2 s", "lookups": 5},
            "guard": {"learn_first": "0 s", "down_after": "0 s", "down_after_decisions": 1, "settle": "0 s"},
        },
    )
    async with running_service(config) as (service, _):
        grants = service.dispatcher.grants
        assert list(grants.granted("inspect", "cache_bytes").values()) == [4 * MIB]

        def shrunk() -> bool:
            send(port, *[b"the same again"] * 3)
            return list(grants.granted("inspect", "cache_bytes").values()) == [2 * MIB]

        async with asyncio.timeout(30):
            while not shrunk():  # noqa: ASYNC110 - it also feeds
                await asyncio.sleep(0.01)
        sentences = " ".join(decision.sentence for decision in service.decisions.last(20))
        assert "default: cache bytes 0 B to 2.0 MiB" in sentences


async def test_gpu_memory_is_a_pool_where_nvml_works_and_is_taken_back_when_others_need_it(tmp_path: Path) -> None:
    device = Device(total=8 << 30)
    lanes = _lanes(all=Allocation())
    declared = {"declared": {"gpu_memory": "6 GiB"}}
    factory = "streamspec.testing.resource_chains:asking"
    async with running(lanes=lanes, workers=1, factory=factory, stages=[declared]) as bench:
        pool = GpuPool(bench.dispatcher, library=StandInNvml([device]))
        assert (await pool.open()).active
        (worker,) = bench.dispatcher.lanes[0].workers
        worker.kill()  # its successor finds the pool
        await until(lambda: bench.dispatcher.lanes[0].workers not in ([], [worker]))
        (worker,) = bench.dispatcher.lanes[0].workers
        device.used, device.processes = 1 << 30, {worker.pid: 1 << 30}
        async with acting(bench, _plan(lanes), tmp_path, gpu=pool) as effects:
            knob = _knob(effects, "all", "gpu_memory_bytes")
            assert (knob.granted, knob.observed) == (6 << 30, 1 << 30)
            device.used, device.processes = 5 << 30, {worker.pid: 1 << 30, 1: 4 << 30}
            left = float((4 << 30) - RESERVE_BYTES)
            await until(lambda: bench.dispatcher.grants.granted("asking", "gpu_memory_bytes") == {worker.index: left})
        assert "gpu_memory_bytes" in bench.dispatcher.grants.pools  # a reload takes nobody's memory away
    await pool.close()
    assert "gpu_memory_bytes" not in bench.dispatcher.grants.pools


async def test_groups_have_the_weight_of_their_workers_and_nice_level(tmp_path: Path) -> None:
    kernel = KernelLike()
    kernel.groups = {"": set(), "own": {os.getpid()}}
    for folder in ("", "own/"):
        kernel.files |= {f"{folder}cgroup.controllers": "cpu cpuset", f"{folder}cgroup.subtree_control": "cpu cpuset"}
    kernel.files |= {"own/cgroup.subtree_control": "", "own/cgroup.type": "domain"}
    lanes = _lanes(light=Allocation(workers=2), rest=Allocation(nice=10))
    mode = "auto"
    async with running(lanes=lanes, workers=3) as bench:
        dispatcher = bench.dispatcher
        staffing = HostStaffing(
            Affinity(), Priority(), dispatcher.grants, lambda: _topology({0}), lambda: mode == "auto"
        )
        cgroup = Cgroup(CgroupPlace(Path("/"), "own"), files=kernel, leftovers=Leftovers(tmp_path))
        groups = Groups(cgroup, staffing, dispatcher, lambda: mode == "auto")
        assert (await groups.open()).active
        await groups.apply(_plan(lanes))
        found = await cgroup.read_back()
        assert {name: group.weight for name, group in found.items()} == {"light": 200, "rest": 11}
        assert found["light"].pids == {worker.pid for worker in dispatcher.lanes[0].workers}
        mode = "recommend"
        await groups.apply(_plan(lanes))
        assert set(kernel.groups) == {"", "own"}
        await groups.close()


def test_weights_stay_within_what_the_kernel_takes() -> None:
    assert [weight_of(1, 0), weight_of(4, -20), weight_of(1, 19)] == [100, 10_000, 1]


class _Broken:
    """A part that cannot act."""

    name = "broken"
    wanted = True
    told: Level = "warning"

    def __init__(self) -> None:
        self.applied = 0

    async def open(self) -> Readiness:
        return Readiness(self.name, False, "", "it is not there", "buy one")

    async def apply(self, plan: Plan) -> None:
        self.applied += 1
        raise OSError("nothing to act on")

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        return ()

    async def close(self) -> None:
        raise OSError("nothing to put back")


async def test_a_part_that_cannot_act_says_so_once_and_holds_up_no_other() -> None:
    lanes = _lanes(all=Allocation())
    async with running(lanes=lanes, workers=1) as bench:
        broken, caches = _Broken(), Caches(bench.dispatcher, bench.dispatcher.clock)
        effects = HostEffects([broken, caches], bench.dispatcher, caches)
        with capture_logs() as lines:
            effects.start(_plan(lanes))
            for _ in range(3):
                await effects.turned()
                effects.apply(_plan(lanes))
            health = {part.component: (part.condition, part.reason) for part in effects.health()}
            await effects.close()
    said = [line["event"] for line in lines if line.get("actuator") == "broken"]
    assert said == ["actuator not active", "actuator failed", "not put back"]
    assert broken.applied >= 3
    assert health["actuator broken"] == ("degraded", "OSError: nothing to act on")
    assert health["actuator cache"] == ("ok", "")
