"""The bandit: neighbours only, propensities that are true, lexicographic cost; and estimates from its log."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.control import LaneState, Observation, Plan
from streamspec.policies.off_policy import doubly_robust, ips, snips
from streamspec.policies.tuner import (
    GRIDS,
    Trial,
    TunerConfig,
    TunerPolicy,
    epsilon_greedy,
    neighbours,
    period_cost,
    tunable,
)
from streamspec.simulation.loop import single_lane

PLAN = replace(single_lane(2, batch=8), targets={"headroom": 0.9})


def seen(now: float, plan: Plan, *, missed: float = 0.0, workers: int = 1, age: float = 0.0) -> Observation:
    lane = LaneState(
        "all",
        allocation=replace(plan.lanes[0].allocation, workers=workers),
        finished_per_second=100.0,
        latency_p99_seconds=0.02,
        miss_ratio=missed,
        oldest_age_seconds=age,
    )
    return Observation(now, lanes=(lane,), workers_ceiling=4, usable_cores=2, routed_work_seconds_per_second=0.5)


def run(tuner: TunerPolicy, plan: Plan, periods: int, world: dict[float, tuple[float, int]] | None = None) -> Plan:
    """A decision every two seconds; every proposal is taken. ``world``: misses and workers by headroom."""
    for step in range(periods * 20):
        missed, workers = (world or {}).get(plan.targets["headroom"], (0.0, 2))
        for proposal in tuner.decide(seen(step * 2.0, plan, missed=missed, workers=workers), plan).proposals:
            if proposal.knob == "headroom":
                plan = replace(plan, targets={"headroom": float(proposal.after)})  # type: ignore[arg-type]
            else:
                lane = plan.lanes[0]
                plan = replace(plan, lanes=(replace(lane, allocation=replace(lane.allocation, batch=proposal.after)),))
    return plan


@given(st.sampled_from(list(GRIDS.values())), st.floats(0.01, 100))
def test_only_neighbours_can_be_chosen(grid: tuple[float, ...], value: float) -> None:
    near = neighbours(grid, value)
    assert 2 <= len(near) <= 3
    assert set(near) <= set(grid)
    nearest = min(grid, key=lambda one: abs(one - value))
    assert nearest in near


@given(st.lists(st.floats(0, 3), min_size=1, max_size=3), st.floats(0, 1))
def test_propensities_are_probabilities(costs: list[float], explore: float) -> None:
    chances = epsilon_greedy(costs, explore)
    assert sum(chances) == pytest.approx(1.0)
    assert min(chances) == pytest.approx(explore / len(costs)) or len(costs) == 1


@given(st.floats(0, 1), st.floats(0, 10), st.floats(0.0101, 1), st.floats(0, 10))
def test_a_missed_objective_costs_more_than_any_number_of_workers(
    workers: float, latency: float, missed: float, other: float
) -> None:
    held = period_cost(0.005, 0.01, workers, latency)
    assert 0 <= held <= 1 < 2 <= period_cost(missed, 0.01, 0.0, other) <= 3


def test_logged_propensities_are_the_frequencies() -> None:
    tuner = TunerPolicy(TunerConfig(period=40.0, explore=0.6), np.random.default_rng(5))
    run(tuner, PLAN, 400)
    trials = [trial for trial in tuner.log.trials if trial.knob == "headroom"]
    assert len(trials) > 150
    taken: Counter[bool] = Counter()
    expected = 0.0
    for trial in trials:
        best = int(np.argmax(trial.propensities))
        taken[trial.action == trial.actions[best]] += 1
        expected += trial.propensities[best]
    assert taken[True] == pytest.approx(expected, abs=4 * np.sqrt(len(trials) * 0.25))


@pytest.mark.slow
def test_it_finds_the_cheap_value_that_holds_the_objective() -> None:
    """Below 0.8 nothing is missed; 0.8 needs one worker less than 0.7; above, the objective is missed."""
    world = {0.6: (0.0, 4), 0.7: (0.0, 3), 0.8: (0.0, 2), 0.9: (0.08, 1), 1.0: (0.3, 1)}
    tuner = TunerPolicy(TunerConfig(period=40.0, explore=0.3), np.random.default_rng(2))
    run(tuner, PLAN, 300, world)
    late = [trial.action for trial in list(tuner.log.trials)[-80:] if trial.knob == "headroom"]
    assert Counter(late).most_common(1)[0][0] == 0.8


def test_nothing_is_tried_during_a_backlog_or_before_a_period_is_over() -> None:
    tuner = TunerPolicy(TunerConfig(period=40.0, explore=1.0))
    for step in range(400):
        late = seen(step * 0.5, PLAN, age=0.04)
        assert not tuner.decide(late, PLAN).proposals
    early = TunerPolicy(TunerConfig(period=40.0, explore=1.0))
    assert not any(early.decide(seen(step * 0.5, PLAN), PLAN).proposals for step in range(79))


def test_targets_are_headroom_batches_and_shares_of_bandwidth() -> None:
    lanes = tuple(
        replace(PLAN.lanes[0], name=name, allocation=replace(PLAN.lanes[0].allocation, bytes_per_second=rate))
        for name, rate in (("light", 3e6), ("heavy", 1e6))
    )
    found = {(knob, lane): value for knob, lane, value, _ in tunable(replace(PLAN, lanes=lanes))}
    assert found == {
        ("headroom", ""): 0.9,
        ("batch", "light"): 8.0,
        ("batch", "heavy"): 8.0,
        ("bytes_per_second", "light"): 0.75,
    }


def test_a_trial_knows_the_chance_it_was_taken_with() -> None:
    trial = Trial("headroom", "", {}, (0.8, 0.9), (0.25, 0.75), 0.9, 0.0)
    assert trial.propensity == 0.75


# -- estimates --------------------------------------------------------------------------------
def logged(count: int, seed: int) -> tuple[np.ndarray, ...]:
    """Two actions, one context; action 1 costs less where the context is high. Logged at 80:20 by the context."""
    rng = np.random.default_rng(seed)
    context = rng.random(count)
    chance = np.where(context > 0.5, 0.8, 0.2)
    action = rng.random(count) < chance
    cost = 1.0 + 0.5 * context - 1.0 * action * context + rng.normal(0, 0.2, count)
    propensity = np.where(action, chance, 1 - chance)
    return context, action, cost, propensity


TRUTH = 1.0 + 0.25 - 0.5
"""Mean cost of always taking action 1."""


@pytest.mark.parametrize("seed", range(8))
def test_estimates_cover_the_truth(seed: int) -> None:
    context, action, cost, propensity = logged(6_000, seed)
    target = action.astype(float)
    model = 1.0 + 0.45 * context - 0.8 * action * context
    estimates = (
        ips(cost, propensity, target),
        snips(cost, propensity, target),
        doubly_robust(cost, propensity, target, model, 1.0 + 0.45 * context - 0.8 * context),
    )
    for estimate in estimates:
        assert estimate.low - 0.02 <= TRUTH <= estimate.high + 0.02
        assert estimate.high - estimate.low < 0.2
    assert estimates[2].high - estimates[2].low < estimates[0].high - estimates[0].low
    assert 0 < estimates[0].effective_samples < 6_000


def test_a_naive_mean_would_be_wrong() -> None:
    _, action, cost, _ = logged(20_000, 1)
    assert abs(float(cost[action].mean()) - TRUTH) > 0.05


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=40))
def test_the_self_normalised_estimate_stays_within_the_costs(rows: list[tuple[float, float, float]]) -> None:
    cost, propensity, target = (np.array(column) for column in zip(*rows, strict=True))
    estimate = snips(cost, propensity, target)
    assert np.isnan(estimate.mean) or cost.min() - 1e-9 <= estimate.mean <= cost.max() + 1e-9


def test_a_propensity_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity"):
        ips(np.ones(2), np.array([0.0, 1.0]), np.ones(2))
