"""The guard: conditions in, what is granted and by which rule it is refused out; it never leaves its bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.control import (
    COST_BINS,
    EVERYTHING,
    Advice,
    CostHistogram,
    LanePlan,
    LaneState,
    ModelHealth,
    Observation,
    Plan,
    Proposal,
    Ruling,
    SinkState,
    SpeedUp,
    TrafficState,
)
from streamspec.core.resources import Allocation
from streamspec.engine.guard import Guard
from streamspec.engine.guard_bounds import lanes_fault
from streamspec.engine.guard_config import BoundsConfig, GuardConfig

ONE = Plan((LanePlan("all", Allocation(2)),))
TWO = Plan((LanePlan("light", Allocation(1), up_to_work_ns=1e6), LanePlan("heavy", Allocation(1, nice=10))))
CEILING = 8


def seen(now: float = 100.0, plan: Plan = ONE, **others: Any) -> Observation:
    """A quiet minute: some load, all met, a model in good health."""
    lanes = others.pop("lanes", None) or tuple(
        LaneState(lane.name, index, lane.allocation, finished_per_second=100.0, useful_seconds_per_second=0.5)
        for index, lane in enumerate(plan.lanes)
    )
    defaults: dict[str, Any] = {
        "since_start_seconds": now,
        "usable_cores": 4,
        "workers_ceiling": CEILING,
        "traffic": (TrafficState(),),
        "routed_work_seconds_per_second": 0.5,
    }
    return Observation(now_seconds=now, lanes=lanes, **(defaults | others))


def workers(after: Any, direction: str = "up", lane: str = "all", **others: Any) -> Proposal:
    return Proposal("workers", lane, None, after, direction, "test", **others)  # type: ignore[arg-type]


def rule(guard: Guard, observation: Observation, plan: Plan, *proposals: Proposal, **others: Any) -> Ruling:
    return guard.rule(observation, plan, [Advice("test", proposals)], **others)


def refusals(ruling: Ruling) -> list[str]:
    return [refusal.rule for refusal in ruling.refused]


def test_up_is_granted_at_once_and_down_when_decisions_agree() -> None:
    guard = Guard(GuardConfig(), ONE)
    up = rule(guard, seen(), ONE, workers(3))
    assert up.plan.workers == 3
    plan, granted_at = up.plan, 0.0
    for index in range(1, 40):
        now = 102.0 + index * 0.25
        ruling = rule(guard, seen(now, plan), plan, workers(1 + index % 2, "down"))
        if ruling.done:
            granted_at = now
            break
        assert refusals(ruling) in (["cooldown"], ["one_knob_at_a_time"])
    assert granted_at - 102.25 >= 2.0
    assert ruling.plan.workers == 2  # the largest of those asked for


def test_one_decision_that_disagrees_starts_the_count_anew() -> None:
    guard = Guard(GuardConfig(), ONE)
    for index in range(30):
        asks = () if index % 7 == 6 else (workers(1, "down"),)
        assert not rule(guard, seen(100.0 + index * 0.25), ONE, *asks).done


@pytest.mark.parametrize(
    ("proposal", "conditions", "reason"),
    [
        (workers(math.nan), {}, "invalid"),
        (workers("many"), {}, "invalid"),
        (workers(True), {}, "invalid"),
        (workers(3, lane="absent"), {}, "invalid"),
        (workers(2), {}, "bounds"),
        (workers(0, "down"), {"since_start_seconds": 1.0}, "cooldown"),
        (workers(4), {"model": ModelHealth(trusted=False)}, "distrust"),
        (workers(4), {"model": ModelHealth(age_seconds=31.0)}, "distrust"),
        (workers(4), {"model": ModelHealth(age_seconds=math.nan)}, "distrust"),
        (workers(4), {"model": ModelHealth(samples=100, error_ratio=1.2)}, "distrust"),
        (workers(4), {"model": ModelHealth(samples=100, bias_ratio=9.0)}, "distrust"),
        (workers(4), {"model": ModelHealth(samples=100, above_upper_ratio=0.5)}, "distrust"),
        (workers(4), {"model": ModelHealth(samples=100, drift=True, above_upper_ratio=0.25)}, "distrust"),
        (workers(4), {"model": ModelHealth(inside_ratio=0.2)}, "distrust"),
        (workers(4), {"model": ModelHealth(unusable_ratio=0.9)}, "distrust"),
        (workers(4), {"sinks": SinkState(waiting=50, wait_ratio=0.8)}, "slow_sink"),
        (workers(4), {"traffic": (TrafficState(heaviest_key_ratio=0.9, order_wait_ratio=0.7),)}, "skew"),
        (workers(8), {"speed_up": SpeedUp((0.0, 1.0, 1.9, 1.9, 1.9, 1.8, 1.6, 1.4, 1.2))}, "peak"),
        (Proposal("intake", "", "open", "flooded", "up", "test"), {}, "invalid"),
        (Proposal("cores", "all", None, "0-3", "sideways", "test"), {}, "invalid"),
        (Proposal("lanes", "", None, (), "up", "test"), {}, "invalid"),
        (Proposal("lanes", "", None, TWO.lanes[:1], "up", "test"), {}, "invalid"),
        (Proposal("lanes", "", None, TWO.lanes[::-1], "up", "test"), {}, "invalid"),
        (Proposal("batch", "all", 16, 17, "sideways", "test"), {}, "dead_band"),
    ],
)
def test_refused(proposal: Proposal, conditions: dict[str, Any], reason: str) -> None:
    ruling = rule(Guard(GuardConfig(), ONE), seen(**conditions), ONE, proposal)
    assert refusals(ruling) == [reason]
    assert ruling.refused[0].why
    assert ruling.plan == ONE


def test_a_step_is_cut_to_bounds_and_the_largest_step_and_says_so() -> None:
    guard = Guard(GuardConfig(step_up_factor=2.0), ONE)
    ruling = rule(guard, seen(), ONE, workers(7))
    assert ruling.plan.workers == 4
    assert (ruling.refused[0].rule, ruling.refused[0].granted) == ("largest_step", 4)
    bounded = Guard(GuardConfig(bounds=BoundsConfig(workers=3)), ONE)
    ruling = rule(bounded, seen(), ONE, workers(7))
    assert ruling.plan.workers == 3
    assert ruling.refused[0].rule == "bounds"


def test_reflexes_skip_cooldown_and_are_bounded_all_the_same() -> None:
    guard = Guard(GuardConfig(), ONE)
    plan = rule(guard, seen(), ONE, workers(3)).plan
    ruling = rule(guard, seen(100.05, plan), plan, workers(99, urgent=True, basis="rule"), glance=True)
    assert ruling.plan.workers == CEILING


def test_one_knob_at_a_time_until_its_effect_is_known() -> None:
    guard = Guard(GuardConfig(), ONE)
    batch = Proposal("batch", "all", 16, 64, "sideways", "test")
    first = rule(guard, seen(), ONE, batch, Proposal("nice", "all", 0, 5, "sideways", "test"))
    assert [done.knob for done in first.done] == ["batch"]
    assert refusals(first) == ["one_knob_at_a_time"]
    nice = Proposal("nice", "all", 0, 5, "sideways", "test")
    assert refusals(rule(guard, seen(100.5, first.plan), first.plan, nice)) == ["one_knob_at_a_time"]
    settled = rule(guard, seen(101.5, first.plan), first.plan, nice)
    assert [verdict.verdict for verdict in settled.settled] == ["kept"]
    assert [done.knob for done in settled.done] == ["nice"]


def test_a_step_down_that_makes_segments_late_is_undone_and_blacklisted() -> None:
    guard = Guard(GuardConfig(down_after_decisions=1, down_after=0.0), ONE)
    plan = rule(guard, seen(), ONE, workers(1, "down")).plan
    assert plan.workers == 1
    late = tuple(replace(lane, miss_ratio=0.2) for lane in seen(plan=plan).lanes)
    ruling = rule(guard, seen(101.5, plan, lanes=late), plan)
    assert [verdict.verdict for verdict in ruling.settled] == ["undone"]
    assert ruling.done[0].reason == "undo_harmful_step"
    assert ruling.plan.workers == 2
    assert refusals(rule(guard, seen(105.0), ONE, workers(1, "down"))) == ["blacklist"]
    light = seen(106.0, routed_work_seconds_per_second=0.1)
    assert rule(guard, light, ONE, workers(1, "down")).plan.workers == 1  # at another load it may be tried


def test_each_repetition_of_a_harmful_step_waits_longer() -> None:
    guard = Guard(GuardConfig(down_after_decisions=1, down_after=0.0, blacklist=10.0), ONE)
    now, waits = 100.0, []
    for _ in range(3):
        start = now
        while not (ruling := rule(guard, seen(now), ONE, workers(1, "down"))).done:
            now += 0.5
        waits.append(now - start)
        late = tuple(replace(lane, miss_ratio=0.2) for lane in seen(plan=ruling.plan).lanes)
        assert rule(guard, seen(now + 1.5, ruling.plan, lanes=late), ruling.plan).plan.workers == 2
        now += 1.5
    assert waits[0] < waits[1] < waits[2]


def test_misses_that_come_from_the_sink_are_not_held_against_a_step() -> None:
    guard = Guard(GuardConfig(down_after_decisions=1, down_after=0.0), ONE)
    plan = rule(guard, seen(), ONE, workers(1, "down")).plan
    late = tuple(replace(lane, miss_ratio=0.2) for lane in seen(plan=plan).lanes)
    ruling = rule(guard, seen(101.5, plan, lanes=late, sinks=SinkState(9, 1.0, 0.9)), plan)
    assert [verdict.verdict for verdict in ruling.settled] == ["kept"]


def test_idle_time_proves_nothing() -> None:
    guard = Guard(GuardConfig(down_after_decisions=1, down_after=0.0), ONE)
    plan = rule(guard, seen(), ONE, workers(1, "down")).plan
    idle = tuple(replace(lane, finished_per_second=0.5) for lane in seen(plan=plan).lanes)
    assert not rule(guard, seen(102.0, plan, lanes=idle), plan).settled
    late = rule(guard, seen(125.0, plan, lanes=idle), plan)
    assert [verdict.verdict for verdict in late.settled] == ["unmeasured"]


def test_who_has_spent_the_budget_of_misses_keeps_the_workers_configured() -> None:
    guard = Guard(GuardConfig(down_after_decisions=1, down_after=0.0), ONE)
    served = tuple(100.0 if index == 10 else 0.0 for index in range(COST_BINS))
    late = CostHistogram(finished_per_second=served, misses_per_second=tuple(count * 0.5 for count in served))
    met = CostHistogram(finished_per_second=served, misses_per_second=(0.0,) * COST_BINS)
    rule(guard, seen(traffic=(TrafficState(arrivals=late),)), ONE)
    calm = {"traffic": (TrafficState(arrivals=met),)}
    assert refusals(rule(guard, seen(101.0, **calm), ONE, workers(1, "down"))) == ["budget"]
    more = Plan((LanePlan("all", Allocation(4)),))
    assert rule(guard, seen(102.0, more, **calm), more, workers(2, "down")).plan.workers == 2
    assert rule(guard, seen(400.0, **calm), ONE, workers(1, "down")).plan.workers == 1


def test_fallback_is_the_safe_plan_at_once_and_leaves_after_good_decisions() -> None:
    guard = Guard(GuardConfig(), ONE)
    priced = replace(TWO, variant_price=1e-7)
    bad = rule(guard, seen(plan=priced, model=ModelHealth(trusted=False)), priced)
    assert bad.plan.lanes == ONE.lanes
    assert bad.plan.variant_price is None
    assert bad.fallback
    fallbacks = [rule(guard, seen(100.25 + index * 0.25), ONE).fallback for index in range(10)]
    assert [bool(why) for why in fallbacks].index(False) == 7


def test_fallback_does_not_make_segments_dearer_while_they_wait() -> None:
    guard = Guard(GuardConfig(), ONE)
    priced = replace(ONE, variant_price=1e-7)
    untrusted = ModelHealth(trusted=False)
    late = seen(plan=priced, model=untrusted)
    late = replace(late, lanes=tuple(replace(lane, oldest_age_seconds=1.0) for lane in late.lanes))
    assert rule(guard, late, priced).plan.variant_price == 1e-7
    assert rule(guard, seen(100.25, plan=priced, model=untrusted), priced).plan.variant_price is None


def test_in_fallback_what_was_measured_still_counts() -> None:
    guard = Guard(GuardConfig(), ONE)
    sick = ModelHealth(trusted=False)
    assert rule(guard, seen(model=sick), ONE, workers(4, basis="measured")).plan.workers == 4


def test_without_acting_nothing_is_remembered() -> None:
    guard = Guard(GuardConfig(), ONE)
    for index in range(3):
        ruling = rule(guard, seen(100.0 + index * 0.1), ONE, workers(4), acting=False)
        assert ruling.done
        assert not ruling.settled


# -- bounds, whatever is proposed -------------------------------------------------------------
numbers = st.one_of(st.integers(-1000, 10_000), st.floats(), st.none(), st.text(max_size=3), st.booleans())
allocations = st.builds(
    Allocation,
    workers=st.integers(-5, 300),
    nice=st.integers(-100, 100),
    batch=st.integers(-5, 5000),
    bytes_per_second=st.floats(),
    cache_bytes=st.integers(-(2**40), 2**60),
    gpu_memory_bytes=st.integers(-(2**40), 2**60),
)
lane_plans = st.builds(
    LanePlan,
    name=st.sampled_from(["all", "light", "medium", "heavy"]),
    allocation=allocations,
    up_to_work_ns=st.one_of(st.just(EVERYTHING), st.floats()),
)
proposals = st.one_of(
    st.builds(
        Proposal,
        knob=st.sampled_from(
            ["workers", "nice", "cores", "batch", "bytes_per_second", "cache_bytes", "gpu_memory_bytes",
             "variant_price", "intake", "headroom", "lanes"]
        ),
        lane=st.sampled_from(["all", "light", "heavy", "absent", ""]),
        before=st.none(),
        after=numbers,
        direction=st.sampled_from(["up", "down", "sideways"]),
        reason=st.just("fuzz"),
        urgent=st.booleans(),
    ),
    st.builds(
        Proposal,
        knob=st.just("lanes"),
        lane=st.just(""),
        before=st.none(),
        after=st.lists(lane_plans, max_size=4).map(tuple),
        direction=st.sampled_from(["up", "down", "sideways"]),
        reason=st.just("fuzz"),
        urgent=st.booleans(),
    ),
)  # fmt: skip
healths = st.builds(
    ModelHealth,
    trusted=st.booleans(),
    age_seconds=st.floats(0, 100),
    samples=st.integers(0, 100),
    error_ratio=st.floats(0, 3),
    bias_ratio=st.floats(0, 10),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.lists(proposals, max_size=4), healths, st.floats(0, 1)), max_size=12), st.integers(1, 6))
def test_it_never_leaves_its_bounds(rounds: list[tuple[list[Proposal], ModelHealth, float]], ceiling: int) -> None:
    bounds = BoundsConfig(nice_low=-5, nice_high=12, batch=64)
    guard = Guard(GuardConfig(bounds=bounds, down_after_decisions=2, down_after=0.2), Plan((LanePlan("all"),)))
    plan, now = Plan((LanePlan("all"),)), 10.0
    for asked, model, missed in rounds:
        now += 0.25
        lanes = tuple(
            LaneState(lane.name, 0, lane.allocation, finished_per_second=100.0, miss_ratio=missed)
            for lane in plan.lanes
        )
        observation = seen(now, plan, lanes=lanes, workers_ceiling=ceiling, model=model)
        ruling = rule(guard, observation, plan, *asked)
        plan = ruling.plan
        assert 1 <= plan.workers <= ceiling
        assert not lanes_fault(plan.lanes, plan)
        assert plan.intake in ("open", "slow", "paused")
        assert plan.variant_price is None or 0 <= plan.variant_price <= 1
        assert all(0.3 <= value <= 1 for value in plan.targets.values())
        for lane in plan.lanes:
            allocation = lane.allocation
            assert allocation.workers >= 1
            assert 1 <= allocation.batch <= 64
            assert -5 <= allocation.nice <= 12
            assert 0 <= allocation.bytes_per_second <= bounds.bytes_per_second
            assert 0 <= allocation.cache_bytes <= bounds.cache_bytes
        for refusal in ruling.refused:
            assert refusal.rule
            assert refusal.why
