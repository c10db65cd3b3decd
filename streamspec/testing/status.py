"""A state reader whose state a test sets, and states and decisions as a busy service has them."""

from __future__ import annotations

from dataclasses import replace

from streamspec.core.control import (
    Decision,
    Effect,
    Forecast,
    LanePlan,
    LaneState,
    Mode,
    Observation,
    Plan,
    Proposal,
    Refusal,
)
from streamspec.core.resources import Allocation
from streamspec.telemetry import state
from streamspec.telemetry.decisions import DecisionLog
from streamspec.telemetry.nvml import DeviceUse

START_SECONDS = 1_700_000_000.0


class ManualReader:
    """Implements ``StateReader`` and ``Controls``; every tick is a second later.

    Args:
        lanes: how many.
    """

    def __init__(self, lanes: int = 2) -> None:
        self.decisions = DecisionLog()
        self.present = busy_state(lanes)
        self.paused = False

    def tick(self) -> state.ServiceState:
        self.present = replace(self.present, now_seconds=self.present.now_seconds + 1.0)
        return self.present

    def read(self) -> state.ServiceState:
        return self.present

    def histograms(self) -> state.Histograms:
        names = [lane.name for lane in self.present.lanes]
        edges = tuple((2.0**power / 1e9, 10 * (power - 13)) for power in range(14, 37))
        one = {name: state.Histogram(edges, 12.5, 240) for name in names}
        return state.Histograms(one, one, one, state.Histogram(edges[:11], 0.1, 120))

    def set_mode(self, mode: Mode) -> None:
        self.present = replace(self.present, control=replace(self.present.control, mode=mode))

    def pause_learning(self, paused: bool) -> None:
        learning = replace(self.present.learning or state.LearningStatus(), paused=paused)
        self.present = replace(self.present, learning=learning)


def busy_state(lanes: int) -> state.ServiceState:
    """A state with every field filled."""
    return state.ServiceState(
        version="0",
        phase="running",
        now_seconds=START_SECONDS,
        started_seconds=START_SECONDS - 60,
        uptime_seconds=60.0,
        objective=state.ObjectiveStatus(0.05, 99.0, True),
        totals=state.Totals(10_000, 90_000, 1 << 30, 9_900, 1 << 29, 50, 10, 40, 3, 7),
        rates=state.Rates(100.0, 900.0, 1e7, 99.0, 0.0, 0.0, 0.0, 0.9, 1.0),
        lanes=tuple(busy_lane(index) for index in range(lanes)),
        sources=(
            state.SourceStatus("packets", "udp", True, {"socket_drops": 7}, {}, socket_dropped=7),
            state.SourceStatus("topic", "kafka", True, {}, {"t:0": {"lag_records": 12.0, "span_records": 3.0}}),
        ),
        sinks=(state.SinkStatus("out", "jsonl", {"rotations": 2}),),
        stages=(state.StageStatus("inspect", 12.0, {"alerts": 4}), state.StageStatus("compress", 30.0, {})),
        content=(
            state.ContentShare("json", 6000, 1 << 29, 60.0, 6e6),
            state.ContentShare("tls", 4000, 1 << 29, 40.0, 4e6),
        ),
        errors=(state.ErrorCount("stage_error", "inspect", 8), state.ErrorCount("worker_died", "", 2)),
        shed={"arena_full": 50},
        records={"flow": 17},
        arena=state.ArenaStatus(1000, 940, 1 << 28),
        fleet=state.FleetStatus(2, 2, 0, 1),
        control=state.ControlStatus("auto", {"applied": 3, "refused": 2}, {"cooldown": 2}),
        learning=state.LearningStatus(9_900, 12, {"budget": 3}, 4, 0.7, 0.19, 1),
        health=(
            state.ComponentHealth("service", required=True),
            state.ComponentHealth("source packets", "degraded", "dropped 7 packets in the last 5 s"),
        ),
        work_error_ratio=0.19,
        work_cells=((10, 10, 50), (12, 11, 9), (20, 20, 4)),
        loop_lag_seconds=0.0011,
        gpus=(DeviceUse("0", "GPU", 0.8, 0.3, 80 << 30, 2 << 30, 41.0, 210.0, 1.7e9, 2.6e9, {"100": 1 << 30}),),
    )


def busy_lane(index: int) -> state.LaneStatus:
    """A lane with a queue, a worker and settings of which one is not granted."""
    return state.LaneStatus(
        name=f"lane{index}",
        index=index,
        objective_seconds=0.05,
        queued_segments=5 * index,
        in_flight_segments=1,
        oldest_seconds=0.002,
        delivered_segments=4950,
        delivered_bytes=1 << 28,
        late_segments=12,
        useful_seconds=21.0,
        work=state.WorkTotals(4900, 20.0, 21.0, 4.0, 300),
        segments_per_second=50.0 + index,
        bytes_per_second=5e6 + 1e5 * index,
        latency_p50_seconds=0.004,
        latency_high_seconds=0.02 + 0.001 * index,
        wait_high_seconds=0.01,
        busy_ratio=0.4,
        workers=(state.WorkerStatus(index + 1, 4000 + index, index, (0, 1), 1),),
        knobs=(
            state.KnobStatus("workers", "workers", 2, 1, 1),
            state.KnobStatus("nice", "level", index, index, index),
            state.KnobStatus("cores", "cores", 2, 2, 2),
            state.KnobStatus("batch", "segments", 16, 16),
            state.KnobStatus("bytes_per_second", "bytes per second", 1.25e7, 1.25e7, 1.24e7),
        ),
    )


def decision(number: int, at_seconds: float = START_SECONDS, mode: Mode = "auto") -> Decision:
    """One step taken, one refused."""
    plan = Plan((LanePlan("bulk", Allocation(workers=2, nice=5)),))
    grow = Proposal("workers", "bulk", 1, 2, "up", "backlog_grows", "1.4 s/s of work against 0.9 s/s", policy="planner")
    batch = Proposal("batch", "small", 16, 32, "down", "cheap_segments", policy="tuner")
    return Decision(
        number=number,
        at_seconds=at_seconds,
        mode=mode,
        policies=("planner", "tuner"),
        seen=Observation(0.0, lanes=(LaneState("bulk", finished_per_second=10.0, miss_ratio=0.2),)),
        forecast=Forecast(1.4, 1.7, 0.9, float("inf"), 0.1),
        before=plan,
        after=plan,
        proposed=(grow, batch),
        refused=(Refusal(batch, "cooldown", "it changed 3 s ago"),),
        done=(grow,),
        expected=Effect(miss_ratio=0.005, workers=2.0),
    )
