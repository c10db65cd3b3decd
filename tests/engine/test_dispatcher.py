"""The engine with real processes: order, retries, deaths, time limits, moving workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from streamspec.core.errors import ConfigError, StreamspecError
from streamspec.core.resources import Allocation
from streamspec.engine.arena import Arena
from streamspec.engine.dispatcher import Dispatcher, LaneSpec, Limits
from streamspec.engine.fleet import ChainSpec
from streamspec.engine.router import LaneRule
from streamspec.testing.components import ListSource
from streamspec.testing.waiting import until
from tests.engine.conftest import LAYOUT, Bench, running

pytestmark = pytest.mark.slow


async def test_every_segment_is_delivered_and_acknowledged_once() -> None:
    segments = [(b"key%d" % (i % 7), b"text %d" % i) for i in range(500)]
    async with running() as bench:
        source = await bench.feed(segments)
        assert sorted(source.acknowledged) == list(range(500))
        assert sorted(k.payload for k in bench.sink.kept) == sorted(p for _, p in segments)
        accounts = bench.dispatcher.accounts
        assert (accounts.received_segments, accounts.delivered_segments) == (500, 500)
        assert accounts.received_bytes == sum(len(p) for _, p in segments)
        assert bench.dispatcher.arena.free_slots == bench.dispatcher.arena.slots


async def test_order_per_key_holds_while_costs_differ() -> None:
    rng = random.Random(5)
    segments = [(b"%d" % rng.randrange(5), b"SLP%d%06d" % (rng.choice([0, 0, 0, 3]), i)) for i in range(300)]
    async with running() as bench:
        await bench.feed(segments)
        for key in {key for key, _ in segments}:
            got = [k.payload for k in bench.sink.kept if k.key == key]
            assert got == [p for k, p in segments if k == key]


async def test_without_order_a_slow_segment_holds_nothing_back() -> None:
    async with running(ordered=False, lanes=[LaneSpec("default", Allocation(workers=2, batch=1))]) as bench:
        await bench.feed([(b"k", b"SLP9 first"), *[(b"k", b"quick %d" % i) for i in range(20)]])
        assert bench.sink.kept[0].payload != b"SLP9 first"
        assert len(bench.sink.kept) == 21


async def test_a_transformed_payload_and_a_result_larger_than_its_slot_arrive() -> None:
    async with running() as bench:
        await bench.feed([(b"a", b"UPPRlower"), (b"b", b"SPILx")])
        results = {k.key: k for k in bench.sink.kept}
        assert results[b"a"].payload == b"UPPRLOWER"
        assert results[b"a"].original == b"UPPRlower"
        assert results[b"b"].payload == b"x" * (1 << 20)


class _Concatenate:
    """A reducer that joins deltas."""

    def __init__(self) -> None:
        self.seen = b""

    def merge(self, content: memoryview) -> None:
        self.seen += bytes(content)

    def collect(self, *, final: bool) -> list[tuple[str, bytes, int]]:
        return [("joined", self.seen + b"\n", 1)] if final else []


async def test_records_reach_the_sink_and_deltas_the_reducer_in_order_and_once() -> None:
    reducer = _Concatenate()
    async with running(reducers={0: reducer}) as bench:
        await bench.feed([(b"k", b"RECS%d" % (i % 10)) for i in range(50)])
        assert bench.sink.kept[0].records == (("note", b'{"key":"k"}\n{"second":1}\n'),)
        assert bench.sink.kept[-1].records == (("joined", b"0123456789" * 5 + b"\n"),)
        await bench.dispatcher.fleet.close()
        assert bench.dispatcher.stage_counts["obedient"]["seen"] == 100


@pytest.mark.parametrize("order", [b"FAIL", b"EXIT"])
async def test_a_stage_that_raises_is_retried_then_dead_lettered(order: bytes) -> None:
    async with running(limits=Limits(retries=2)) as bench:
        source = await bench.feed([(b"k", b"one"), (b"k", order), (b"k", b"two")])
        assert [k.payload for k in bench.sink.kept] == [b"one", b"two"]
        (letter,) = bench.dead.kept
        assert letter.original == order
        assert "stage obedient" in letter.error
        assert bench.dispatcher.accounts.retries == 2
        assert bench.dispatcher.accounts.dead_lettered_segments == 1
        assert sorted(source.acknowledged) == [0, 1, 2]
        assert bench.dispatcher.fleet.restarts == 0


class _Picky(ListSource):
    """Rejects what begins with ``BAD``."""

    async def run(self) -> None:
        for position, (key, payload) in enumerate(self._segments):
            slot = await self._slot()
            self.fill(slot, position, key, payload)
            if payload.startswith(b"BAD"):
                self._intake.reject(slot, "not readable")
            else:
                self._intake.commit([slot])


async def test_what_a_source_rejects_is_dead_lettered_and_holds_nothing_back() -> None:
    segments = [(b"k", b"SLP3 %d" % i if i % 2 else b"BAD %d" % i) for i in range(20)]
    async with running() as bench:
        source = _Picky(segments)
        await bench.open_source(source)
        await bench.dispatcher.drain()
        assert [k.original for k in bench.dead.kept] == [p for _, p in segments if p.startswith(b"BAD")]
        assert {k.error for k in bench.dead.kept} == {"not readable"}
        assert [k.payload for k in bench.sink.kept] == [p for _, p in segments if not p.startswith(b"BAD")]
        assert sorted(source.acknowledged) == list(range(20))
        assert bench.dispatcher.accounts.dead_lettered_segments == 10


@pytest.mark.parametrize("order", [b"SEGV", b"KILL"])
async def test_a_worker_that_dies_is_replaced_and_its_killer_dead_lettered_after_two(order: bytes) -> None:
    segments = [(b"%d" % (i % 3), order if i == 20 else b"fine %d" % i) for i in range(60)]
    async with running() as bench:
        source = await bench.feed(segments)
        assert sorted(k.payload for k in bench.sink.kept) == sorted(p for _, p in segments if p != order)
        (letter,) = bench.dead.kept
        assert "2 workers died" in letter.error
        assert signal.Signals(signal.SIGSEGV if order == b"SEGV" else signal.SIGKILL).name in letter.error
        assert sorted(source.acknowledged) == list(range(60))
        await bench.dispatcher.fleet.wait_ready()
        assert len(bench.dispatcher.fleet.present()) == 2


async def test_killing_workers_from_outside_loses_and_repeats_nothing() -> None:
    segments = [(b"%d" % (i % 3), b"SLP1%05d" % i) for i in range(400)]
    async with running() as bench:
        source = ListSource(segments)
        reading = bench.open_source(source)
        for _ in range(3):
            await until(bench.dispatcher.fleet.present)
            worker = bench.dispatcher.fleet.present()[0]
            os.kill(worker.pid, signal.SIGKILL)
            seen = len(bench.sink.kept)
            await until(lambda seen=seen: len(bench.sink.kept) >= min(seen + 60, 400))
        await reading
        await bench.dispatcher.drain()
        assert not bench.dead.kept
        for key in (b"0", b"1", b"2"):
            assert [k.payload for k in bench.sink.kept if k.key == key] == [p for k, p in segments if k == key]


async def test_a_stage_that_hangs_is_stopped_by_the_time_limit() -> None:
    async with running(limits=Limits(max_deaths=1, time_limit_seconds=0.2)) as bench:
        await bench.feed([(b"a", b"HANG"), *[(b"b", b"%d" % i) for i in range(20)]])
        (letter,) = bench.dead.kept
        assert "time limit" in letter.error
        assert len(bench.sink.kept) == 20


async def test_workers_move_between_lanes_while_the_stream_runs() -> None:
    lanes = [
        LaneSpec("small", Allocation(workers=1, batch=2), rule=LaneRule(lane=0, max_bytes=8)),
        LaneSpec("large", Allocation(workers=2, batch=2), rule=LaneRule(lane=1)),
    ]
    async with running(lanes=lanes, workers=3) as bench:
        source = ListSource([(b"%d" % (i % 9), b"x" * (1 + i % 16)) for i in range(600)])
        reading = bench.open_source(source)
        await asyncio.sleep(0)
        dispatcher = bench.dispatcher
        dispatcher.apply("small", Allocation(workers=2, nice=5, cores=frozenset({0}), batch=8))
        dispatcher.apply("large", Allocation(workers=1, batch=1))
        await reading
        await dispatcher.drain()
        assert [len(lane.workers) for lane in dispatcher.lanes] == [2, 1]
        for worker in dispatcher.lanes[0].workers:
            assert os.getpriority(os.PRIO_PROCESS, worker.pid) == worker.granted_nice == 5
            assert os.sched_getaffinity(worker.pid) == {0}
        assert len(bench.sink.kept) == 600
        with pytest.raises(KeyError):
            dispatcher.apply("absent", Allocation())


async def test_a_larger_allocation_grows_the_fleet() -> None:
    async with running(workers=1, lanes=[LaneSpec("default", Allocation(workers=1))]) as bench:
        bench.dispatcher.apply("default", Allocation(workers=3))
        await bench.dispatcher.fleet.wait_ready()
        await bench.feed([(b"k", b"%d" % i) for i in range(50)])
        assert len(bench.dispatcher.lanes[0].workers) == 3
        bench.dispatcher.fleet.resize(1)
        await bench.feed([(b"k", b"%d" % i) for i in range(50)])
        assert len(bench.sink.kept) == 100


async def test_lanes_are_replaced_while_segments_wait() -> None:
    async with running(slots=32) as bench:
        reading = bench.open_source(ListSource([(b"%d" % (i % 4), b"SLP1%03d" % i) for i in range(200)]))
        await asyncio.sleep(0)
        bench.dispatcher.set_lanes(
            [
                LaneSpec("a", Allocation(workers=1), rule=LaneRule(lane=0, keys=(b"0", b"1"))),
                LaneSpec("b", Allocation(workers=1), rule=LaneRule(lane=1)),
            ]
        )
        await reading
        await bench.dispatcher.drain()
        for key in (b"0", b"1", b"2", b"3"):
            payloads = [k.payload for k in bench.sink.kept if k.key == key]
            assert payloads == sorted(payloads)
        assert len(bench.sink.kept) == 200


async def test_a_full_arena_slows_a_source_that_can_wait() -> None:
    async with running(slots=8) as bench:
        bench.sink.gate.clear()
        source = ListSource([(b"k", b"%d" % i) for i in range(40)])
        reading = bench.open_source(source)
        await until(lambda: not bench.dispatcher.arena.free_slots)
        assert bench.dispatcher.accounts.received_segments == 8
        assert not reading.done()
        bench.sink.gate.set()
        await reading
        await bench.dispatcher.drain()
        assert [k.payload for k in bench.sink.kept] == [b"%d" % i for i in range(40)]


async def test_a_full_arena_sheds_the_oldest_of_the_least_urgent_lane_and_counts_it() -> None:
    lanes = [
        LaneSpec("urgent", Allocation(workers=1, batch=1), urgency=0, rule=LaneRule(lane=0, keys=(b"u",))),
        LaneSpec("bulk", Allocation(workers=1, batch=1), urgency=9, rule=LaneRule(lane=1)),
    ]
    async with running(lanes=lanes, slots=16) as bench:
        bench.sink.gate.clear()
        source = ListSource([(b"u" if i % 4 == 0 else b"b", b"%02d" % i) for i in range(60)], can_wait=False)
        await bench.open_source(source)
        bench.sink.gate.set()
        await bench.dispatcher.drain()
        accounts = bench.dispatcher.accounts
        assert accounts.shed_segments == accounts.shed["arena_full"] > 0
        assert accounts.received_segments == accounts.delivered_segments + accounts.shed_segments
        assert accounts.received_segments + source.dropped == 60
        assert len(source.acknowledged) == accounts.received_segments
        assert bench.dispatcher.arena.free_slots == 16


async def test_sources_that_can_wait_leave_a_reserve_for_those_that_cannot() -> None:
    async with running(slots=16) as bench:
        bench.sink.gate.clear()
        live = ListSource([], can_wait=False)
        await bench.open_source(live, "live")
        reading = bench.open_source(ListSource([(b"k", b"%d" % i) for i in range(40)]), "file")
        await until(lambda: bench.dispatcher.arena.free_slots <= 4)
        slot = live._intake.acquire()
        assert slot >= 0
        live._intake.release(slot)
        bench.sink.gate.set()
        await reading
        await bench.dispatcher.drain()


async def test_the_chain_is_exchanged_without_loss() -> None:
    def order(bench: Bench) -> list[bytes]:
        return [k.payload for k in bench.sink.kept]

    async with running() as bench:
        source = ListSource([(b"k", b"UPPR%04d" % i) for i in range(2000)])
        reading = bench.open_source(source)
        await asyncio.sleep(0)
        new = ChainSpec("streamspec.testing.chains:obedient", [{"suffix": "!"}])
        await bench.dispatcher.replace_chain(new, {})
        await reading
        await bench.feed([(b"k", b"UPPRlast")])
        await bench.dispatcher.drain()
        assert [p[:8] for p in order(bench)[:2000]] == [b"UPPR%04d" % i for i in range(2000)]
        assert order(bench)[-1] == b"UPPRLAST!"


async def test_a_chain_that_cannot_be_built_leaves_the_old_one() -> None:
    async with running() as bench:
        with pytest.raises(ConfigError, match="cannot be built"):
            await bench.dispatcher.replace_chain(ChainSpec("streamspec.testing.chains:refusing", []), {})
        await bench.feed([(b"k", b"UPPRx")])
        assert bench.sink.kept[0].payload == b"UPPRX"
        assert not bench.errors


async def test_a_first_chain_that_cannot_be_built_is_reported_with_its_own_message() -> None:
    failed: asyncio.Future[StreamspecError] = asyncio.get_running_loop().create_future()
    dispatcher = Dispatcher(
        Arena(LAYOUT, 8),
        [LaneSpec("default")],
        ChainSpec("streamspec.testing.chains:refusing", []),
        failed=lambda error: None if failed.done() else failed.set_result(error),
    )
    starting = asyncio.ensure_future(dispatcher.start(1))
    error = await asyncio.wait_for(failed, 20)
    assert isinstance(error, ConfigError)
    assert "this chain cannot be built" in str(error)
    starting.cancel()
    await dispatcher.close()
