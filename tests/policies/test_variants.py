"""One price walks the frontier of work against bytes, segment by segment, and moves with utilisation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from streamspec.core.control import Objective, Observation, VariantState
from streamspec.policies.planner import PlannerPolicyConfig
from streamspec.policies.reflex import ReflexPolicy
from streamspec.policies.variants import (
    VariantsConfig,
    VariantsPolicy,
    break_even_prices,
    choose_variants,
    next_price,
)
from streamspec.simulation.loop import Run, simulate, single_lane
from streamspec.simulation.plant import TrafficClass
from streamspec.simulation.workload import Workload, arrivals, build_workload, with_error

positive = st.floats(1e-6, 1.0)
matrices = arrays.arrays(np.float64, (12, 4), elements=positive)


@settings(max_examples=100, deadline=None)
@given(matrices, matrices, st.lists(st.floats(0, 1e3), min_size=2, max_size=6))
def test_a_higher_price_never_costs_bytes_nor_saves_work(
    work: np.ndarray, size: np.ndarray, prices: list[float]
) -> None:
    rows = np.arange(len(work))
    chosen = [choose_variants(work, size, price) for price in sorted(prices)]
    spent = [float(work[rows, variant].sum()) for variant in chosen]
    out = [float(size[rows, variant].sum()) for variant in chosen]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(spent))
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(out))


@settings(max_examples=100, deadline=None)
@given(matrices, matrices, st.floats(0, 1e3))
def test_no_fixed_variant_is_better_at_its_price(work: np.ndarray, size: np.ndarray, price: float) -> None:
    """On or beyond the frontier of all fixed variants, at every price."""
    rows = np.arange(len(work))
    chosen = choose_variants(work, size, price)
    ours = float((work[rows, chosen] + price * size[rows, chosen]).sum())
    assert ours <= float((work + price * size).sum(axis=0).min()) * (1 + 1e-9)


def test_at_the_ends_are_the_fastest_and_the_smallest() -> None:
    work, size = np.array([[1.0, 2.0, 3.0]]), np.array([[9.0, 5.0, 4.0]])
    assert choose_variants(work, size, 0.0).tolist() == [0]
    assert choose_variants(work, size, 0.3).tolist() == [1]
    assert choose_variants(work, size, 1e6).tolist() == [2]


def test_break_even_prices_skip_what_is_never_best() -> None:
    states = [VariantState(0, 0, 1.0, 100.0), VariantState(1, 0, 2.0, 99.0), VariantState(2, 0, 3.0, 50.0)]
    assert break_even_prices(states) == pytest.approx((2.0 / 50.0,))
    assert break_even_prices(states[:1]) == ()


@given(st.floats(1e-9, 1e-3), st.floats(1e-3, 1e3), st.floats(0.05, 4))
def test_the_price_stays_in_its_range_and_moves_with_the_room(price: float, room: float, gain: float) -> None:
    moved = next_price(price, room, gain, 1e-9, 1e-3)
    assert 1e-9 <= moved <= 1e-3
    assert moved >= price * 0.999999 if room >= 1 else moved <= price * 1.000001


def test_without_variants_or_switched_off_nothing_is_proposed() -> None:
    assert not VariantsPolicy().decide(Observation(1.0), single_lane(1)).proposals
    off = VariantsPolicy(VariantsConfig(enabled=False))
    two = (VariantState(0, 1, 0.1, 100.0, True), VariantState(1, 0, 0.3, 50.0))
    assert not off.decide(Observation(1.0, variants=two), single_lane(1)).proposals


# -- in the loop ------------------------------------------------------------------------------
COST = np.array([0.5, 1.0, 3.0])
RATIO = np.array([0.50, 0.42, 0.38])


def varied(cores: float, seed: int = 0, seconds: float = 40.0) -> Workload:
    """Segments that compress differently well, three levels; ``cores`` is the load with the middle one."""
    rng = np.random.default_rng(seed)
    arrival = arrivals(rng, np.array([0.0, seconds]), np.array([cores / 1e-3]))
    count = len(arrival)
    work = rng.lognormal(-0.02, 0.2, (count, 1)) * 1e6 * COST
    gain = rng.beta(0.5, 0.5, (count, 1)) * 1.6
    ratio = 0.5 - (0.5 - RATIO) * gain
    return with_error(build_workload(arrival, work, ratio=np.clip(ratio, 0.02, 1), default_variant=1), rng)


def fixed(workload: Workload, variant: int) -> Run:
    columns = slice(variant, variant + 1)
    one = replace(
        workload,
        work_ns=np.ascontiguousarray(workload.work_ns[:, columns]),
        ratio=np.ascontiguousarray(workload.ratio[:, columns]),
        predicted_ns=np.ascontiguousarray(workload.predicted_ns[:, columns]),
        predicted_ratio=np.ascontiguousarray(workload.predicted_ratio[:, columns]),
        default_variant=0,
    )
    return simulate(one, [], plan=single_lane(2))


def priced(workload: Workload) -> Run:
    return simulate(
        workload,
        [PlannerPolicyConfig().build(), VariantsPolicy()],
        plan=single_lane(2),
        reflexes=[ReflexPolicy()],
        traffic=(TrafficClass(objective=Objective(0.05, 99.0)),),
    )


@pytest.mark.slow
@pytest.mark.parametrize("cores", [0.3, 0.8, 1.3, 2.4])
def test_bytes_and_capacity_lie_on_or_beyond_the_frontier_of_fixed_levels(cores: float) -> None:
    """At every load: within the objective wherever some fixed level is, and no fixed level that is within it,
    with the same workers, sends clearly fewer bytes."""
    workload = varied(cores)
    ours = priced(workload)
    levels = [fixed(workload, variant) for variant in range(3)]
    able = [level for level in levels if level.miss_ratio <= 0.01]
    assert ours.miss_ratio <= (0.01 if cores < 2 else 0.02)  # under an overload from the first second on
    cheapest = [level for level in able if level.mean_workers <= ours.mean_workers + 0.05]
    for level in cheapest:
        assert ours.bytes_out <= level.bytes_out * 1.02


@pytest.mark.slow
def test_overload_costs_ratio_before_segments() -> None:
    workload = varied(2.4)
    assert fixed(workload, 1).miss_ratio > 0.5
    assert priced(workload).miss_ratio < 0.02
