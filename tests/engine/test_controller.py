"""The controller: what a plan does to a running dispatcher, and what is put on record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from streamspec.core.control import (
    EVERYTHING,
    Advice,
    Decision,
    LanePlan,
    Mode,
    Objective,
    Observation,
    Plan,
    Proposal,
    Ruling,
)
from streamspec.core.resources import Allocation
from streamspec.engine.controller import Controller
from streamspec.engine.cycle import Cycle
from streamspec.engine.dispatcher import LaneSpec
from streamspec.engine.foresight import Foresight
from streamspec.engine.guard import Guard
from streamspec.engine.observer import Observer, Traffic
from streamspec.engine.router import LaneRule
from streamspec.testing.components import ListSource
from tests.engine.conftest import Bench, running
from tests.engine.test_foresight import LengthProfiler

ONE_LANE = Plan((LanePlan("all", Allocation(workers=1)),))
TWO_LANES = Plan(
    (
        LanePlan("light", Allocation(workers=1), up_to_work_ns=1e6),
        LanePlan("heavy", Allocation(workers=2, nice=3), up_to_work_ns=EVERYTHING, urgency=1),
    )
)


@dataclass
class Says:
    """A policy that always says that something is to be done, and keeps what it was shown."""

    name: str = "says"
    seen: list[Observation] = field(default_factory=list)

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        self.seen.append(observation)
        return Advice(self.name, (Proposal("lanes", "", plan.lanes, None, "up", "because"),))


@dataclass
class Grants(Guard):
    """A guard that rules as it was told."""

    plans: list[Plan]
    number: int = 0

    def rule(self, observation: Observation, plan: Plan, advice: Iterable[Advice], **how: bool) -> Ruling:
        self.number += 1
        return Ruling(self.number, self.plans.pop(0) if self.plans else plan, done=next(iter(advice)).proposals)


@asynccontextmanager
async def controlled(*plans: Plan, mode: Mode = "auto") -> AsyncIterator[tuple[Bench, Controller, list[Decision]]]:
    observer = Observer([Traffic()])
    lanes = [LaneSpec("all", Allocation(workers=1))]
    async with running(lanes=lanes, workers=1, slots=16, observer=observer) as bench:
        decisions: list[Decision] = []
        controller = Controller(
            bench.dispatcher,
            observer,
            Cycle(mode, [Says()], Grants(list(plans)), ONE_LANE),
            {"default": LaneRule(0)},
            Objective(),
            usable_cores=2,
            workers_ceiling=3,
            ledger=decisions.append,
        )
        yield bench, controller, decisions


async def test_lanes_come_and_go_while_the_stream_runs() -> None:
    async with controlled(TWO_LANES, ONE_LANE) as (bench, controller, decisions):
        dispatcher = bench.dispatcher
        source = ListSource([(b"%d" % (i % 5), b"%d" % i) for i in range(400)])
        reading = bench.open_source(source)
        controller.step()
        await dispatcher.fleet.wait_ready()
        assert [lane.name for lane in dispatcher.lanes] == ["light", "heavy"]
        assert [len(lane.workers) for lane in dispatcher.lanes] == [1, 2]
        assert {worker.granted_nice for worker in dispatcher.lanes[1].workers} == {3}
        controller.step()
        assert [lane.name for lane in dispatcher.lanes] == ["all"]
        await reading
        await dispatcher.drain()
        assert len(bench.sink.kept) == 400
    assert [decision.number for decision in decisions] == [1, 2]
    assert decisions[0].before == ONE_LANE
    assert decisions[0].after == TWO_LANES


async def test_cuts_prices_and_intake_move_without_new_lanes() -> None:
    moved = replace(
        TWO_LANES, lanes=(replace(TWO_LANES.lanes[0], up_to_work_ns=2e6), TWO_LANES.lanes[1]), intake="paused"
    )
    async with controlled(TWO_LANES, moved, replace(moved, intake="open")) as (bench, controller, _):
        dispatcher = bench.dispatcher
        controller.step()
        light = dispatcher.lanes[0]
        controller.step()
        assert dispatcher.lanes[0] is light
        assert dispatcher.router._rules["max_work_ns"].tolist() == [2e6, EVERYTHING]
        source = ListSource([(b"k", b"%d" % i) for i in range(5)])
        reading = bench.open_source(source)
        for _ in range(5):
            await dispatcher._tick_passed()
        assert not dispatcher.accounts.received_segments
        controller.step()
        await reading
        await dispatcher.drain()
        assert len(bench.sink.kept) == 5


async def test_segments_are_hurried_by_their_objective_only_while_decisions_are_ours() -> None:
    async with controlled(TWO_LANES) as (bench, controller, _):
        bench.dispatcher.foresee(Foresight(bench.dispatcher.arena, LengthProfiler()))
        foresight = bench.dispatcher.foresight
        assert foresight is not None
        controller.step()
        assert foresight.limits_ns == [controller.objective.latency_seconds * 1e9] * 2
        controller.cycle.mode = "off"
        controller.step()
        assert not foresight.limits_ns


@pytest.mark.parametrize(("mode", "recorded"), [("recommend", 1), ("off", 0)])
async def test_only_auto_changes_anything(mode: Mode, recorded: int) -> None:
    async with controlled(TWO_LANES, mode=mode) as (bench, controller, decisions):
        controller.step()
        assert [lane.name for lane in bench.dispatcher.lanes] == ["all"]
        assert len(decisions) == recorded
        assert all(decision.after == TWO_LANES for decision in decisions)


async def test_a_policy_that_fails_leaves_the_plan_in_force() -> None:
    async with controlled(TWO_LANES) as (bench, controller, _):
        controller.cycle.policies = (_Fails(),)
        controller.start(0.002, 0.001)
        await bench.dispatcher._tick_passed()
        await bench.dispatcher._tick_passed()
        controller.close()
        assert controller.failures
        assert controller.cycle.plan == ONE_LANE


class _Fails:
    name = "fails"

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        raise ZeroDivisionError


async def test_the_observation_carries_what_is_in_force() -> None:
    async with controlled(TWO_LANES) as (_, controller, _decisions):
        controller.step()
        controller.step()
        (policy,) = controller.cycle.policies
        assert isinstance(policy, Says)
        first, second = policy.seen
        assert [lane.name for lane in first.lanes] == ["all"]
        assert [lane.up_to_work_ns for lane in second.lanes] == [1e6, EVERYTHING]
        assert second.workers_ceiling == 3
        assert second.lanes[0].since_change_seconds < 10


async def test_glances_ask_reflexes_alone_and_leave_the_window() -> None:
    async with controlled() as (_, controller, _decisions):
        reflex = Says("reflex")
        controller.cycle.reflexes = (reflex,)
        controller.step(glance=True)
        controller.step(glance=True)
        controller.step()
        (policy,) = controller.cycle.policies
        assert isinstance(policy, Says)
        assert len(reflex.seen) == 3
        assert len(policy.seen) == 1
        assert controller.turns == 1
