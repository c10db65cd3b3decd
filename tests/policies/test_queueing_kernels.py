"""The planner's arithmetic against the plant, and its search against trying everything."""

from __future__ import annotations

import numpy as np
import pytest

from streamspec.core.control import COST_BIN_EDGES_NS, COST_BINS, LanePlan, Plan, cost_bins
from streamspec.core.resources import Allocation
from streamspec.policies import queueing_kernels as queueing
from streamspec.policies.lanes import Split
from streamspec.simulation.loop import single_lane
from streamspec.simulation.plant import TWO_CORES, Plant, PlantSetting
from streamspec.simulation.workload import Mix, arrivals, build_workload

FREE = PlantSetting(message_seconds=0.0, segment_seconds=0.0)
CURVE = np.array(TWO_CORES)
SECONDS = 200.0


def load(cores: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = Mix()
    arrival = arrivals(rng, np.array([0.0, SECONDS]), np.array([cores / mix.mean_seconds]))
    return arrival, mix.draw(rng, len(arrival))


def demand(work: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    bins = cost_bins(work)
    count = np.bincount(bins, minlength=COST_BINS)
    some = np.maximum(count, 1)
    return (
        count / SECONDS,
        np.bincount(bins, work / 1e9, COST_BINS) / some,
        np.bincount(bins, (work / 1e9) ** 2, COST_BINS) / some,
    )


def lanes(cut: int | None, workers: tuple[int, ...]) -> Plan:
    if cut is None:
        return single_lane(workers[0])
    light = LanePlan("light", Allocation(workers[0], batch=4), up_to_work_ns=COST_BIN_EDGES_NS[cut])
    return Plan((light, LanePlan("heavy", Allocation(workers[1], nice=10, batch=1))))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.02, 0.05])
@pytest.mark.parametrize(
    ("cores", "cut", "workers"),
    [(0.5, None, (1,)), (0.7, None, (1,)), (0.7, None, (2,)), (1.2, None, (2,)), (1.5, None, (2,)), (0.9, 20, (1, 1)),
     (1.2, 20, (1, 1)), (1.2, 20, (2, 2))],
)  # fmt: skip
def test_expected_misses_are_those_of_the_plant(
    cores: float, cut: int | None, workers: tuple[int, ...], limit: float
) -> None:
    """Within a factor of four where it matters (0.2 % and more), and small where they are small."""
    arrival, work = load(cores)
    plant = Plant(build_workload(arrival, work), lanes(cut, workers), FREE)
    plant.advance_to(1e4)
    hopeless = work / 1e9 > limit
    seen = float((((plant.finished_ns - arrival) / 1e9 > limit) & ~hopeless).mean())
    rate, cost, square = demand(work)
    split = Split((COST_BINS,) if cut is None else (cut, COST_BINS), workers)
    missed, full = queueing.misses(
        rate, cost, square, split.cut_array, split.worker_array, len(workers), CURVE, 2, limit, 1.0, 0, 0.0
    )
    expected = missed / rate.sum()
    assert full < 1.0
    assert expected < 4.0 * seen + 0.002
    assert seen < 4.0 * expected + 0.002


def search(cores: float, limit: float, allowed: float, ceiling: int, max_lanes: int = 3) -> tuple[np.ndarray, float]:
    rate, cost, square = demand(load(cores)[1])
    found = np.zeros(queueing.FOUND_WIDTH, dtype=np.int64)
    missed, _ = queueing.search(
        rate, cost, square, CURVE, 2, limit, 1.0, allowed * rate.sum(), ceiling, 2, max_lanes, 0, 0.0, found
    )
    return found, missed / rate.sum()


@pytest.mark.parametrize(
    ("cores", "limit", "workers", "most_lanes"),
    [(0.2, 0.05, 1, 1), (0.5, 0.05, 1, 1), (0.9, 0.05, 2, 2), (1.3, 0.05, 2, 2), (1.2, 0.02, 4, 3)],
)
def test_the_cheapest_that_meets_the_objective(cores: float, limit: float, workers: int, most_lanes: int) -> None:
    found, missed = search(cores, limit, 0.005, 2)
    assert missed <= 0.005 or workers > 2
    assert found[queueing.FOUND_TOTAL] <= workers
    assert found[queueing.FOUND_LANES] <= most_lanes


def test_overload_serves_the_light_ones() -> None:
    found, missed = search(2.5, 0.05, 0.005, 2)
    assert found[queueing.FOUND_LANES] >= 2
    assert missed < 0.6


def test_less_load_never_costs_more_workers() -> None:
    totals = [int(search(cores, 0.05, 0.005, 2)[0][queueing.FOUND_TOTAL]) for cores in (1.2, 0.9, 0.6, 0.3, 0.1)]
    assert totals == sorted(totals, reverse=True)


def test_growth_room_ends_where_the_objective_does() -> None:
    rate, cost, square = demand(load(0.5)[1])
    split = Split((COST_BINS,), (2,))
    room = queueing.growth_room(rate, cost, square, split.cut_array, split.worker_array, 1, CURVE, 2, 0.05, 1.0, 0.005)
    assert 1.5 < room < 1.85 / 0.5
    for factor, met in ((room * 0.95, True), (room * 1.1, False)):
        missed, _ = queueing.misses(
            rate, cost * factor, square * factor**2, split.cut_array, split.worker_array, 1, CURVE, 2, 0.05, 1.0, 0, 0.0
        )
        assert bool(missed / rate.sum() <= 0.005) is met
