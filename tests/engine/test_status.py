"""What is read of a real dispatcher with real workers."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES
from streamspec.core.outcome import DEAD_LETTERED, DELIVERED, OUTCOME, SHED
from streamspec.core.resources import Allocation
from streamspec.core.segment import ERROR_KINDS, MAX_STAGES
from streamspec.engine import readings_kernels as columns
from streamspec.engine.accounts import Accounts
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.readings import Readings
from streamspec.engine.router import LaneRule
from streamspec.engine.service_health import findings
from streamspec.engine.status import CONTENT_NAMES, ServiceFacts, SourceFacts, StatusReader
from streamspec.telemetry.decisions import DecisionLog
from streamspec.telemetry.state import ComponentHealth, FleetStatus, LaneStatus, ObjectiveStatus
from streamspec.testing.components import ListSource
from streamspec.testing.waiting import until
from tests.engine.conftest import running

TWO_LANES = (
    LaneSpec("small", Allocation(workers=1, batch=4), rule=LaneRule(0, max_bytes=100)),
    LaneSpec("large", Allocation(workers=1, nice=5, batch=4), urgency=1, rule=LaneRule(1)),
)


def reader_of(dispatcher: Dispatcher, **changes: Any) -> StatusReader:
    facts = ServiceFacts("running", 0.05, 99.0, ["obedient"], [], {"out": "list"})
    return StatusReader(dispatcher, lambda: replace(facts, **changes), DecisionLog())


# -- sums -------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_the_kernel_adds_what_plain_python_adds(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count = data.draw(st.integers(0, 40))
    rows = np.zeros(count, dtype=OUTCOME)
    rows["lane"] = rng.integers(0, 3, count)
    rows["ending"] = rng.integers(0, 3, count)
    rows["error_kind"] = np.where(rows["ending"] == DEAD_LETTERED, rng.integers(1, len(ERROR_KINDS), count), 0)
    rows["length"] = rng.integers(0, 1 << 20, count)
    rows["latency_ns"] = rng.integers(0, 1 << 30, count)
    rows["wait_ns"] = rng.integers(-5, 1 << 28, count)
    rows["useful_ns"] = rng.integers(0, 1 << 22, (count, MAX_STAGES)) * (rng.random((count, MAX_STAGES)) < 0.3)
    rows["profiled"] = rng.integers(0, 2, count)
    rows["features"][:, FEATURE_INDEX["type_code"]] = rng.integers(0, len(TYPE_NAMES), count)
    rows["predicted_ns"] = rng.integers(0, 1 << 23, count) * rng.integers(0, 2, count)
    rows["predicted_upper_ns"] = 2 * rows["predicted_ns"]
    readings = Readings(Accounts(["a", "b", "c"]), lambda lane: 0.1)
    readings.take(rows)
    for lane in range(3):
        mine = rows[(rows["lane"] == lane) & (rows["ending"] == DELIVERED)]
        useful = mine["useful_ns"].sum(axis=1)
        known = mine["predicted_ns"] > 0
        sums = readings.lanes[lane]
        assert sums[columns.SEGMENTS] == len(mine)
        assert sums[columns.BYTES] == mine["length"].sum()
        assert sums[columns.LATE] == (mine["latency_ns"] > 100_000_000).sum()
        assert sums[columns.WAIT_NS] == np.maximum(mine["wait_ns"], 0).sum()
        assert sums[columns.USEFUL_NS] == useful.sum()
        assert readings.useful[lane].sum() == len(mine)
        assert sums[columns.MEASURED_NS] == useful[known].sum()
        assert sums[columns.ERROR_NS] == sum(
            int(abs(p - u)) for p, u in zip(mine["predicted_ns"][known].tolist(), useful[known].tolist(), strict=True)
        )
    assert readings.errors.sum() == (rows["ending"] == DEAD_LETTERED).sum()
    assert readings.stages.sum() == rows[rows["ending"] != SHED]["useful_ns"].sum()
    assert readings.content[:, 0].sum() == count
    assert readings.content[columns.NOT_PROFILED, 0] == (rows["profiled"] == 0).sum()
    assert readings.cells.sum() == ((rows["predicted_ns"] > 0) & (rows["ending"] == DELIVERED)).sum()


@given(st.floats(0, 1e15, allow_nan=False))
@settings(deadline=None, max_examples=100)
def test_a_cell_of_work_is_half_an_octave(work_ns: float) -> None:
    cell = columns.work_cell(work_ns)
    assert 0 <= cell < columns.WORK_CELLS
    if 1024.0 <= work_ns < 1024.0 * 2 ** (columns.WORK_CELLS / 2):
        assert 1024.0 * 2 ** (cell / 2) <= work_ns * 1.0001
        assert work_ns <= 1024.0 * 2 ** ((cell + 1) / 2) * 1.0001


def test_lanes_that_keep_their_name_keep_their_sums() -> None:
    accounts = Accounts(["a", "b"])
    readings = Readings(accounts, lambda lane: 0.1)
    rows = np.zeros(2, dtype=OUTCOME)
    rows["lane"] = [0, 1]
    readings.take(rows)
    accounts.set_lanes(["b", "c", "d"])
    readings.take(rows[:1])
    assert readings.lanes[:, columns.SEGMENTS].tolist() == [2, 0, 0]


# -- a real dispatcher ------------------------------------------------------------------------
@pytest.mark.slow
async def test_totals_lanes_and_settings_are_read_from_what_runs() -> None:
    async with running(lanes=TWO_LANES) as bench:
        reader = reader_of(bench.dispatcher)
        await bench.feed([(b"k%d" % (i % 3), bytes(50 if i % 2 else 500)) for i in range(40)])
        state = reader.tick()
        assert state.totals.delivered_segments == 40
        assert [(lane.name, lane.delivered_segments) for lane in state.lanes] == [("small", 20), ("large", 20)]
        assert state.lanes[1].delivered_bytes == 20 * 500
        assert state.lanes[0].segments_per_second > 0
        assert 0 < (state.lanes[0].latency_p50_seconds or 0) <= (state.lanes[0].latency_high_seconds or 0)
        assert state.stages[0].useful_seconds > 0
        assert state.content[0].type == CONTENT_NAMES[columns.NOT_PROFILED]
        nice = {knob.knob: knob for knob in state.lanes[1].knobs}["nice"]
        assert (nice.desired, nice.granted, nice.observed) == (5, 5, 5)
        (worker,) = state.lanes[1].workers
        assert os.getpriority(os.PRIO_PROCESS, worker.pid) == worker.nice == 5
        latency = reader.histograms().latency["small"]
        assert latency.count == 20
        assert latency.edges[-1][1] == 20
        assert latency.sum_seconds > 0
        reader.close()


@pytest.mark.slow
async def test_a_setting_that_the_host_changed_behind_our_back_shows() -> None:
    async with running(lanes=TWO_LANES) as bench:
        reader = reader_of(bench.dispatcher)
        os.setpriority(os.PRIO_PROCESS, bench.dispatcher.lanes[1].workers[0].pid, 9)
        nice = {knob.knob: knob for knob in reader.tick().lanes[1].knobs}["nice"]
        assert (nice.desired, nice.granted, nice.observed) == (5, 5, 9)
        reader.close()


@pytest.mark.slow
async def test_errors_are_told_by_kind_and_stage() -> None:
    async with running() as bench:
        reader = reader_of(bench.dispatcher)
        await bench.feed([(b"k", b"FAIL"), (b"k", b"fine")])
        errors = reader.tick().errors
        assert [(error.kind, error.stage, error.segments) for error in errors] == [("stage_error", "obedient", 1)]
        reader.close()


@pytest.mark.slow
async def test_lanes_may_go_while_sinks_hold_what_came_through_them() -> None:
    async with running(lanes=TWO_LANES) as bench:
        reader = reader_of(bench.dispatcher)
        bench.sink.gate.clear()
        task = bench.open_source(ListSource([(b"k%d" % i, bytes(500)) for i in range(20)]))
        await task
        await until(
            lambda: not any(len(lane) or any(w.in_flight for w in lane.workers) for lane in bench.dispatcher.lanes)
        )
        bench.dispatcher.set_lanes([LaneSpec("only", Allocation(workers=2))])
        bench.sink.gate.set()
        await bench.dispatcher.drain()
        (lane,) = reader.tick().lanes
        assert (lane.name, lane.delivered_segments) == ("only", 20)
        reader.close()


# -- health -----------------------------------------------------------------------------------
WELL: dict[str, Any] = {
    "phase": "running",
    "fleet": FleetStatus(2, 2, 0, 0),
    "sources": {"in": True},
    "dropped": {"in": 0},
    "write_errors": {"out": 0},
    "lanes": [LaneStatus("a", 0, objective_seconds=0.05)],
    "late_ratios": {"a": 0.005},
    "objective": ObjectiveStatus(0.05, 99.0),
    "shed": 0,
}


@pytest.mark.parametrize(
    ("change", "component", "condition", "reason"),
    [
        ({"phase": "starting"}, "service", "failed", "warming up"),
        ({"phase": "draining"}, "service", "failed", "draining"),
        ({"fleet": FleetStatus(2, 0, 0, 4)}, "fleet", "failed", "none of 2"),
        ({"fleet": FleetStatus(2, 1, 0, 4)}, "fleet", "degraded", "1 of 2"),
        ({"dropped": {"in": 7}}, "source in", "degraded", "dropped 7 packets"),
        ({"write_errors": {"out": 3}}, "sink out", "degraded", "3 writes failed"),
        ({"shed": 9}, "intake", "degraded", "9 segments were shed"),
        ({"late_ratios": {"a": 0.2}}, "lane a", "degraded", "20.0% of its segments took longer than 50 ms"),
        (
            {"late_ratios": {"a": None}, "lanes": [LaneStatus("a", 0, objective_seconds=0.05, oldest_seconds=3.0)]},
            "lane a",
            "degraded",
            "the oldest has waited 3 s",
        ),
    ],
)
def test_what_is_not_well_says_why(change: dict[str, Any], component: str, condition: str, reason: str) -> None:
    found = {part.component: part for part in findings(**(WELL | change))}
    assert found.pop(component).condition == condition
    assert reason in {part.component: part for part in findings(**(WELL | change))}[component].reason
    assert {part.condition for part in found.values()} == {"ok"}


def test_all_is_well_when_nothing_is_wrong() -> None:
    assert {part.condition for part in findings(**WELL)} == {"ok"}
    assert ComponentHealth("service", required=True) in findings(**WELL)


@pytest.mark.slow
async def test_drops_of_the_last_seconds_degrade_their_source_alone() -> None:
    events = {"socket_drops": 0}
    async with running() as bench:
        reader = reader_of(bench.dispatcher, sources=[SourceFacts("in", "udp", True, events)])
        reader.tick()
        events["socket_drops"] = 12
        state = reader.tick()
        assert {part.component for part in state.health if part.condition != "ok"} == {"source in"}
        assert state.totals.dropped_packets == 12
        assert state.not_ready == ()
        for _ in range(6):
            state = reader.tick()
        assert {part.condition for part in state.health} == {"ok"}
        reader.close()
