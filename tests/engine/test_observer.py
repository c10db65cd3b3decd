"""What the controller is told: kernels against plain sums, and a window over real workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.control import COST_BINS, HostState, Objective, Observation, cost_bins
from streamspec.core.interfaces import Rows, SlotMemory, Slots
from streamspec.core.outcome import DELIVERED, OUTCOME, SHED
from streamspec.core.prediction import Features
from streamspec.core.resources import Allocation
from streamspec.engine import observer_kernels as columns
from streamspec.engine.arena import Arena
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.foresight import Foresight
from streamspec.engine.observer import Observer, Traffic
from streamspec.engine.router import LaneRule
from streamspec.testing.components import ListSource
from tests.engine.conftest import LAYOUT, running


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_a_cost_has_the_bin_that_policies_know(work_ns: list[float]) -> None:
    assert [columns.work_bin(float(work)) for work in work_ns] == cost_bins(work_ns).tolist()


def _outcomes(**values: list[Any]) -> Rows:
    rows = np.zeros(len(next(iter(values.values()))), dtype=OUTCOME)
    rows["variant"] = -1
    for name, column in values.items():
        if name in ("useful_ns", "variant"):
            rows[name][:, 0] = column
        else:
            rows[name] = column
    return rows


def test_outcomes_are_counted_by_lane_by_cost_and_against_what_was_predicted() -> None:
    observer = Observer([Traffic(objective=Objective(1e-3))], variants=2, variant_stage=0)
    observer.finished(
        _outcomes(
            ending=[DELIVERED, DELIVERED, SHED],
            latency_ns=[500_000, 2_000_000, 0],
            predicted_ns=[100_000, 400_000, 50_000],
            predicted_upper_ns=[150_000, 500_000, 60_000],
            useful_ns=[120_000, 600_000, 0],
            service_ns=[200_000, 700_000, 0],
            order_ns=[100_000, 0, 0],
            sink_ns=[0, 1_000_000, 0],
            variant=[1, 0, -1],
        )
    )
    bins = observer._sums.bins[0]
    assert bins[:, columns.FINISHED].sum() == 3
    assert bins[:, columns.MISSED].sum() == 2  # the late one and the one that was shed
    assert bins[cost_bins(400_000.0), columns.MEASURED] == 600_000
    assert observer._sums.lanes[0, columns.LANE_USEFUL] == 720_000
    assert observer._sums.model.tolist()[:5] == [2, 220_000, 720_000, 500_000, 1]
    assert observer._sums.waits[0].tolist() == [2_500_000, 100_000, 1_000_000]
    assert observer._sums.variants[:, columns.VARIANT_CHOSEN].tolist() == [1, 1]


class _CostInPayload:
    """The length in the first column."""

    def profile(self, slots_in: SlotMemory, headers: Rows, slots: Slots, out: Features) -> None:
        out[:] = 0
        out[:, 0] = headers["length"][slots]


class _MicrosecondPerByte:
    version, coverage = 3, 0.9

    def predict(self, features: Features, host_load: float, out: Rows) -> None:
        out["work_ns"] = 1000 * features[:, 0]
        out["upper_ns"] = 2000 * features[:, 0]


def _observe(observer: Observer, dispatcher: Dispatcher) -> Observation:
    return observer.observe(
        dispatcher,
        dispatcher.clock.monotonic_ns(),
        objective=Objective(),
        usable_cores=2,
        workers_ceiling=4,
        cuts={"light": 100_000.0},
        changed_ns={},
        host=HostState(),
    )


@pytest.mark.slow
async def test_a_window_over_real_workers_adds_up() -> None:
    observer = Observer([Traffic()])
    lanes = [
        LaneSpec("light", Allocation(workers=1), rule=LaneRule(0, max_work_ns=100_000.0)),
        LaneSpec("heavy", Allocation(workers=1, nice=1), rule=LaneRule(1)),
    ]
    arena = Arena(LAYOUT, 64)
    foresight = Foresight(arena, _CostInPayload(), _MicrosecondPerByte())
    async with running(arena=arena, lanes=lanes, foresight=foresight, observer=observer) as bench:
        _observe(observer, bench.dispatcher)
        await bench.feed([(b"k%d" % (i % 7), b"SLP0" + bytes(10 if i % 4 else 496)) for i in range(100)])
        seen = _observe(observer, bench.dispatcher)
        again = _observe(observer, bench.dispatcher)
    seconds = seen.window_seconds
    assert [round(lane.arrivals_per_second * seconds) for lane in seen.lanes] == [75, 25]
    assert [round(lane.finished_per_second * seconds) for lane in seen.lanes] == [75, 25]
    assert seen.lanes[0].up_to_work_ns == 100_000
    (traffic,) = seen.traffic
    assert len(traffic.arrivals.per_second) == COST_BINS
    assert traffic.arrivals.total_per_second * seconds == pytest.approx(100)
    assert traffic.arrivals.total_work_ratio * seconds == pytest.approx((75 * 14 + 25 * 500) * 1e-6)
    assert seen.routed_work_seconds_per_second == pytest.approx(traffic.arrivals.total_work_ratio)
    assert 0.1 < traffic.heaviest_key_ratio < 0.3
    assert seen.model.version == 3
    assert seen.model.samples == 100
    assert seen.model.unusable_ratio == 0
    assert seen.oldest_age_seconds == 0
    assert again.traffic[0].arrivals.total_per_second == 0


@pytest.mark.slow
async def test_what_waits_is_told_with_its_predicted_work() -> None:
    observer = Observer([Traffic()])
    arena = Arena(LAYOUT, 16)
    foresight = Foresight(arena, _CostInPayload(), _MicrosecondPerByte())
    async with running(arena=arena, foresight=foresight, observer=observer, workers=1) as bench:
        dispatcher = bench.dispatcher
        dispatcher.pause()
        intake = dispatcher.add_source("list", ListSource([]))
        slots = [intake.acquire() for _ in range(4)]
        for slot in slots:
            intake.headers["length"][slot] = 50
            intake.headers["arrival_ns"][slot] = dispatcher.clock.monotonic_ns()
            intake.set_key(slot, b"k")
        intake.commit(slots)
        seen = _observe(observer, dispatcher)
        dispatcher.resume()
        await dispatcher.drain()
    (lane,) = seen.lanes
    assert lane.queued == 4
    assert lane.queued_work_seconds == pytest.approx(200e-6)
    assert lane.queued_upper_seconds == pytest.approx(400e-6)
    assert lane.oldest_age_seconds > 0
    assert seen.arena_used_ratio == 0.25


@pytest.mark.slow
async def test_rates_are_taken_over_the_last_periods_together() -> None:
    observer = Observer([Traffic()], window=2)
    async with running(observer=observer) as bench:
        _observe(observer, bench.dispatcher)
        await bench.feed([(b"k", b"a")] * 30)
        counts = []
        for _ in range(3):
            seen = _observe(observer, bench.dispatcher)
            counts.append(round(seen.lanes[0].finished_per_second * seen.window_seconds))
    assert counts == [30, 30, 0]
