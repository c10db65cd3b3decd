"""Stages that ask for resources, in real workers."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from streamspec.actuators.cache import Cache
from streamspec.actuators.gpu_memory import RESERVE_BYTES, GpuMemory
from streamspec.core.pools import AmountPool
from streamspec.core.resources import Pool
from streamspec.stages.chain import FACTORY as FACTORY_OF_STAGES
from streamspec.stages.inspect import InspectConfig
from streamspec.testing.nvml import Device, StandInNvml
from streamspec.testing.waiting import until
from tests.engine.conftest import Bench, running

pytestmark = pytest.mark.slow

FACTORY = "streamspec.testing.resource_chains:asking"
MIB = 1 << 20


def _pools() -> dict[str, Pool]:
    return {"cache_bytes": AmountPool("cache_bytes", 64 * MIB), "threads": AmountPool("threads", 4)}


async def _order(bench: Bench, order: dict[str, Any]) -> dict[str, Any]:
    before = len(bench.sink.kept)
    await bench.feed([(b"k", json.dumps(order).encode())])
    assert len(bench.sink.kept) == before + 1, bench.dead.kept
    answer: dict[str, Any] = json.loads(bench.sink.kept[-1].payload)
    return answer


async def test_a_stage_asks_while_running_and_is_granted_or_refused_with_a_reason() -> None:
    async with running(factory=FACTORY, workers=1, pools=_pools()) as bench:
        answer = await _order(bench, {"ask": {"cache": "48 MiB", "threads": 2}})
        assert answer["held"] == [{"threads": 2, "cache_bytes": 48 * MIB}]
        refused = await _order(bench, {"ask": {"cache": "32 MiB"}})
        assert refused["refused"] == "cache 32.0 MiB asked for, cache 16.0 MiB left of cache 64.0 MiB"
        assert refused["available"] == {"threads": 2, "cache_bytes": 16 * MIB}
        gpu = await _order(bench, {"ask": {"gpu_memory": "2 GiB", "threads": 1}})
        assert gpu["refused"] == "this service has no pool of gpu_memory"
        assert bench.dispatcher.grants.available().threads == 2  # a refused request takes nothing
        await _order(bench, {"release": 0})
        await until(lambda: bench.dispatcher.grants.available().cache_bytes == 64 * MIB)


async def test_a_batch_that_arrives_before_the_answer_is_not_lost() -> None:
    async with running(factory=FACTORY, workers=1, pools=_pools()) as bench:
        orders = [json.dumps({"ask": {"cache": "1 MiB"}}).encode() for _ in range(60)]
        await bench.feed([(b"k%d" % (i % 7), order) for i, order in enumerate(orders)])
        assert len(bench.sink.kept) == 60
        assert bench.dispatcher.grants.pools["cache_bytes"].available() == 4 * MIB


async def test_a_stage_is_told_when_a_grant_changes_and_what_it_lets_go_is_free_then() -> None:
    async with running(factory=FACTORY, workers=1, pools=_pools()) as bench:
        grants = bench.dispatcher.grants
        await _order(bench, {"ask": {"cache": "48 MiB"}})
        assert grants.resize_stage("asking", "cache_bytes", 8 * MIB, "the hit rate does not pay") == {}
        await until(lambda: grants.available().cache_bytes == 56 * MIB)
        answer = await _order(bench, {})
        assert answer["held"] == [{"cache_bytes": 8 * MIB}]
        assert answer["told"][-1] == "the hit rate does not pay"
        assert grants.resize_stage("asking", "cache_bytes", 80 * MIB, "") == {
            next(iter(grants.held.values())).holder.index: "cache 72.0 MiB asked for, "
            "cache 56.0 MiB left of cache 64.0 MiB"
        }
        assert grants.resize_stage("asking", "cache_bytes", 16 * MIB, "grown") == {}
        assert (await _order(bench, {}))["held"] == [{"cache_bytes": 16 * MIB}]


async def test_what_a_stage_declares_is_granted_before_its_first_segment_and_changes_reach_it() -> None:
    declared = {"declared": {"cache": "4 MiB"}}
    async with running(factory=FACTORY, stages=[declared], pools=_pools()) as bench:
        grants = bench.dispatcher.grants
        assert grants.available().cache_bytes == 56 * MIB  # two workers
        assert (await _order(bench, {}))["declared"] == {"cache_bytes": 4 * MIB}
        assert grants.resize_stage("asking", "cache_bytes", 2 * MIB, "less") == {}
        await until(lambda: set(grants.granted("asking", "cache_bytes").values()) == {2 * MIB})


async def test_the_cache_actuator_sizes_the_caches_of_a_lane_and_puts_them_back() -> None:
    declared = {"declared": {"cache": "4 MiB"}}
    async with running(factory=FACTORY, stages=[declared], pools=_pools()) as bench:
        grants = bench.dispatcher.grants

        def workers(lane: str) -> list[int]:
            return [worker.index for found in bench.dispatcher.lanes if found.name == lane for worker in found.workers]

        actuator = Cache(
            lambda lane, stage, size: grants.resize_stage(stage, "cache_bytes", size, "decided", workers(lane)),
            lambda lane, stage: {
                worker: size for worker, size in grants.granted(stage, "cache_bytes").items() if worker in workers(lane)
            },
        )
        place = ("default", "asking")
        applied = await actuator.apply({place: 1 * MIB, ("none", "asking"): MIB})
        assert applied.refused == {("none", "asking"): "no worker of this lane has such a cache"}
        await until(lambda: set(grants.granted("asking", "cache_bytes").values()) == {MIB})
        assert await actuator.read_back() == {place: MIB}
        assert "of 2 workers: cache" in (await actuator.apply({place: 100 * MIB})).refused[place]
        await actuator.restore()
        await until(lambda: set(grants.granted("asking", "cache_bytes").values()) == {4 * MIB})


async def test_a_declared_request_that_is_refused_does_not_stop_the_stage() -> None:
    declared = {"declared": {"gpu_memory": "2 GiB"}}
    async with running(factory=FACTORY, stages=[declared], workers=1, pools=_pools()) as bench:
        answer = await _order(bench, {})
        assert answer["declared"] is None
        assert answer["told"] == ["this service has no pool of gpu_memory"]


async def test_what_a_dead_worker_held_is_free() -> None:
    async with running(factory=FACTORY, workers=1, pools=_pools()) as bench:
        await _order(bench, {"ask": {"cache": "48 MiB"}})
        (worker,) = bench.dispatcher.fleet.present()
        os.kill(worker.pid, signal.SIGKILL)
        await until(lambda: bench.dispatcher.grants.available().cache_bytes == 64 * MIB)
        assert (await _order(bench, {}))["held"] == []


async def test_a_pool_that_gave_too_much_takes_back_from_the_largest() -> None:
    pools = _pools()
    async with running(factory=FACTORY, workers=1, pools=pools) as bench:
        grants = bench.dispatcher.grants
        for amount in ("40 MiB", "10 MiB"):
            await _order(bench, {"ask": {"cache": amount}})
        pool = pools["cache_bytes"]
        assert isinstance(pool, AmountPool)
        pool.limit = 30 * MIB
        (shrunk,) = grants.reclaim()
        assert shrunk.promised.cache_bytes == 20 * MIB
        assert grants.reclaim() == []  # it is on its way already
        await until(lambda: not pool.overdraft())
        answer = await _order(bench, {})
        assert answer["held"] == [{"cache_bytes": 20 * MIB}, {"cache_bytes": 10 * MIB}]
        assert "taken back" in answer["told"][-1]


async def test_gpu_memory_is_granted_on_a_device_and_taken_back_when_another_process_needs_it() -> None:
    device = Device(total=8 << 30)
    ledger = GpuMemory(lambda: [1], library=StandInNvml([Device(total=1 << 30), device]))
    await ledger.probe()
    async with running(factory=FACTORY, workers=1, pools={"gpu_memory_bytes": ledger}) as bench:
        grants = bench.dispatcher.grants
        answer = await _order(bench, {"ask": {"gpu_memory": "6 GiB"}})
        assert (answer["held"], answer["places"]) == ([{"gpu_memory_bytes": 6 << 30}], ["1"])
        device.used, device.processes = 4 << 30, {2: 4 << 30}
        (shrunk,) = grants.reclaim()
        assert shrunk.promised.gpu_memory_bytes == (4 << 30) - RESERVE_BYTES
        await until(lambda: not ledger.overdraft())
        assert (await _order(bench, {}))["held"] == [{"gpu_memory_bytes": (4 << 30) - RESERVE_BYTES}]
        await _order(bench, {"release": 0})
        await until(lambda: ledger.granted("1") == 0)


async def test_a_stage_that_does_not_let_go_keeps_the_amount_on_the_books(capfd: pytest.CaptureFixture[str]) -> None:
    stubborn = {"declared": {}, "obeys": False}
    async with running(factory=FACTORY, stages=[stubborn], workers=1, pools=_pools()) as bench:
        await _order(bench, {"ask": {"cache": "48 MiB"}})
        bench.dispatcher.grants.resize_stage("asking", "cache_bytes", 0, "all of it")
        await _order(bench, {})  # the worker goes on
        assert bench.dispatcher.grants.available().cache_bytes == 16 * MIB


async def test_an_amount_that_cannot_be_read_is_the_stages_fault_not_the_services() -> None:
    async with running(factory=FACTORY, workers=1, pools=_pools()) as bench:
        await bench.feed([(b"k", json.dumps({"ask": {"cache": "many"}}).encode())])
        assert "not a size: 'many'" in bench.dead.kept[0].error
        assert bench.dispatcher.fleet.restarts == 0


async def test_the_verdict_cache_of_inspect_is_granted_counted_and_resized(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- {id: 1, name: x, pattern: evil}")
    config = InspectConfig(type="inspect", rules=(tmp_path / "rules.yaml",), cache_bytes=MIB)
    stages = [config.model_dump(mode="json")]
    async with running(factory=FACTORY_OF_STAGES, stages=stages, workers=1, pools=_pools()) as bench:
        dispatcher = bench.dispatcher
        assert list(dispatcher.grants.granted("inspect", "cache_bytes").values()) == [MIB]
        await bench.feed([(b"k%d" % (i % 3), b"evil %d" % (i % 5)) for i in range(50)])
        assert all(kept.records for kept in bench.sink.kept)
        assert dispatcher.grants.resize_stage("inspect", "cache_bytes", 0, "it does not pay") == {}
        await bench.feed([(b"k", b"evil 1")] * 3)
        await until(lambda: dispatcher.grants.available().cache_bytes == 64 * MIB)
        assert len(bench.sink.kept) == 53
    counts = dispatcher.stage_counts["inspect"].counts
    assert counts == {"cache_misses": 5, "cache_hits": 45, "alerts": 53}
