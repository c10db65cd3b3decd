"""A sink in a copy per traffic class: what one class waits for does not hold another."""

from __future__ import annotations

import asyncio

import pytest

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.resources import Allocation
from streamspec.engine.dispatcher import LaneSpec
from streamspec.engine.router import LaneRule
from streamspec.engine.traffic_sinks import TrafficSinkRunner
from streamspec.testing.components import ListSink, ListSource
from streamspec.testing.waiting import until
from tests.engine.conftest import Bench, running

pytestmark = pytest.mark.slow

LANES = (
    LaneSpec("light", Allocation(workers=1), rule=LaneRule(lane=0, keys=(b"light",))),
    LaneSpec("heavy", Allocation(workers=1), traffic=1, urgency=1, rule=LaneRule(lane=1)),
)


async def _split(bench: Bench) -> tuple[TrafficSinkRunner, ListSink, ListSink]:
    """The bench's one sink is replaced by two copies."""
    delivery, light, heavy = bench.dispatcher.delivery, ListSink(), ListSink()
    runner = TrafficSinkRunner(
        "out", [light, heavy], delivery.view, delivery.written, bench.errors.append, lambda: [s.traffic for s in LANES]
    )
    await runner.open()
    (old,) = delivery.sinks
    delivery.sinks[:] = [runner]
    await old.close()
    return runner, light, heavy


async def test_a_class_whose_copy_waits_holds_no_other() -> None:
    async with running(lanes=LANES) as bench:
        _, light, heavy = await _split(bench)
        heavy.gate.clear()
        source = ListSource([(b"heavy" if i % 2 else b"light", b"%03d" % i) for i in range(40)])
        reading = bench.open_source(source)
        await until(lambda: len(light.kept) == 20)
        assert [kept.payload for kept in light.kept] == [b"%03d" % i for i in range(0, 40, 2)]
        assert heavy.kept == []
        await until(lambda: len(source.acknowledged) == 20)  # only those are acknowledged
        heavy.gate.set()
        await reading
        async with asyncio.timeout(10):
            await bench.dispatcher.drain()
        assert [kept.payload for kept in heavy.kept] == [b"%03d" % i for i in range(1, 40, 2)]
        assert len(source.acknowledged) == 40


async def test_a_class_whose_results_do_not_leave_leaves_room_for_the_others() -> None:
    async with running(lanes=LANES, slots=64) as bench:
        _, light, heavy = await _split(bench)
        heavy.gate.clear()
        source = ListSource([(b"heavy", b"%d" % i) for i in range(500)], can_wait=False)
        await bench.open_source(source)
        shed = bench.dispatcher.accounts.shed.counts
        assert (source.dropped, set(shed)) == (0, {"class_full"})
        for number in range(20):
            await bench.open_source(ListSource([(b"light", b"%d" % number)], can_wait=False), f"light {number}")
            await until(lambda number=number: len(light.kept) == number + 1)  # type: ignore[misc]
        heavy.gate.set()
        await bench.dispatcher.drain()
        assert len(heavy.kept) + shed["class_full"] == 500
        assert len(heavy.kept) >= 32


async def test_a_copy_that_cannot_be_opened_closes_the_others() -> None:
    class Refused(ListSink):
        async def open(self, tally: object) -> None:
            raise DependencyUnavailable("nobody listens")

    async with running(lanes=LANES) as bench:
        delivery, first = bench.dispatcher.delivery, ListSink()
        runner = TrafficSinkRunner("out", [first, Refused()], delivery.view, delivery.written, print, lambda: [0, 1])
        with pytest.raises(DependencyUnavailable):
            await runner.open()
        assert first.closed
        assert not runner.shape(0, "5350:10")
