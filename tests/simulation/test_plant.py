"""The simulated plant: theory, order, preemption, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.control import LanePlan, Plan
from streamspec.core.resources import Allocation
from streamspec.simulation import kernels
from streamspec.simulation.loop import single_lane
from streamspec.simulation.observing import Observer
from streamspec.simulation.plant import Plant, PlantSetting
from streamspec.simulation.workload import build_workload

FREE = PlantSetting(message_seconds=0.0, segment_seconds=0.0)
LANES = Plan(
    (
        LanePlan("light", Allocation(1, nice=0, batch=1), up_to_work_ns=1e6),
        LanePlan("heavy", Allocation(2, nice=19, batch=1)),
    )
)


def test_one_worker_waits_as_theory_says() -> None:
    """M/M/1: mean time in system is 1 / (mu - lambda)."""
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1e6 / 0.6, 60_000))
    plant = Plant(build_workload(arrival, rng.exponential(1e6, 60_000)), single_lane(1), FREE)
    plant.advance_to(1e6)
    assert plant.finished
    mean = (plant.finished_ns - arrival).mean() / 1e6
    assert mean == pytest.approx(1 / (1 - 0.6), rel=0.06)


def test_urgent_lanes_take_the_core_from_heavy_work() -> None:
    arrival = np.array([0.0, 0.0, 2e6])
    work = np.array([50e6, 50e6, 0.5e6])
    plant = Plant(build_workload(arrival, work), LANES, FREE)
    plant.advance_to(1.0)
    light = (plant.finished_ns[2] - arrival[2]) / 1e6
    assert light == pytest.approx(0.5, rel=0.05)
    assert plant.finished_ns[:2].max() / 1e6 == pytest.approx(100 / 1.85, rel=0.05)


def test_order_holds_for_a_key_and_only_for_it() -> None:
    arrival = np.array([0.0, 1e5, 2e5])
    work = np.array([20e6, 0.2e6, 0.2e6])
    plant = Plant(build_workload(arrival, work, key=[7, 7, 8]), LANES, FREE)
    plant.advance_to(1.0)
    assert plant.finished_ns[1] == plant.finished_ns[0]
    assert plant.finished_ns[2] < 2e6


segments = st.lists(
    st.tuples(st.floats(0, 3e6), st.floats(1e3, 2e7), st.integers(0, 3), st.integers(1, 60_000)),
    min_size=1,
    max_size=80,
)


@settings(max_examples=100, deadline=None)
@given(segments, st.booleans(), st.integers(1, 6), st.sampled_from([0.0, 2e6]))
def test_every_segment_ends_once_and_keys_keep_their_order(
    rows: list[tuple[float, float, int, int]], can_wait: bool, slots: int, sink: float
) -> None:
    rows = sorted(rows)
    arrival, work, key, length = (np.array(column) for column in zip(*rows, strict=True))
    setting = PlantSetting(slots=slots, can_wait=can_wait, sink_bytes_per_second=sink)
    plant = Plant(build_workload(arrival, work, key=key, length=length), single_lane(2), setting)
    plans = (LANES, single_lane(1), single_lane(3))
    for step in range(1, 20):
        plant.advance_to(step * 1e-3)
        plant.apply(plans[step % 3])
        assert plant.marks[kernels.USED_SLOTS] <= slots
    plant.advance_to(1e4)
    assert plant.finished
    assert sorted(plant.log.tolist()) == list(range(len(rows)))
    assert not can_wait or not plant.marks[kernels.SHED]
    delivered = [segment for segment in plant.log.tolist() if plant.state[segment] == kernels.OVER]
    for one in set(key.tolist()):
        mine = [segment for segment in delivered if key[segment] == one]
        assert mine == sorted(mine)


def test_the_observation_says_what_happened() -> None:
    rng = np.random.default_rng(2)
    arrival = np.sort(rng.random(2_000)) * 4e9
    work = rng.exponential(1e6, 2_000)
    plant = Plant(build_workload(arrival, work), single_lane(2))
    observer = Observer(plant)
    for step in range(1, 17):
        plant.advance_to(step * 0.25)
        seen = observer.observe()
    assert seen.window_seconds == pytest.approx(1.0)
    assert seen.traffic[0].arrivals.total_per_second == pytest.approx(500, rel=0.15)
    assert seen.lanes[0].useful_seconds_per_second == pytest.approx(0.5, rel=0.2)
    assert seen.speed_up.useful_seconds_per_second[1] == pytest.approx(0.94, abs=0.03)  # less its own overhead
    assert seen.model.error_ratio == 0.0
    assert seen.miss_ratio < 0.01
