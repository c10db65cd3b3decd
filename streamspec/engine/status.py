"""Reads a dispatcher for people and scrapers: totals now, rates and percentiles over the last seconds.

Everything is computed when it is asked for, from arrays that exist anyway; a :meth:`StatusReader.tick` once
a second keeps what recent figures are measured against.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

import streamspec
from streamspec.core.features import TYPE_NAMES
from streamspec.core.interfaces import Counts
from streamspec.core.segment import ERROR_KINDS
from streamspec.engine import kernels
from streamspec.engine import readings_kernels as columns
from streamspec.engine.accounts import percentile_ns
from streamspec.engine.dispatcher import Dispatcher
from streamspec.engine.lane import Lane
from streamspec.engine.lane_knobs import LaneKnobs
from streamspec.engine.readings import Readings
from streamspec.engine.service_health import findings
from streamspec.telemetry import state
from streamspec.telemetry.decisions import DecisionLog
from streamspec.telemetry.loop_lag import LoopLag
from streamspec.telemetry.nvml import DeviceUse

CONTENT_NAMES = (*TYPE_NAMES, "not_profiled")
_EDGE_POWERS = range(14, 37)  # 16 us to 69 s
_EDGE_BUCKETS = np.array([(power - 3) * 16 for power in _EDGE_POWERS])
_EDGES_SECONDS = tuple(2.0**power / 1e9 for power in _EDGE_POWERS)


@dataclass(frozen=True)
class SourceFacts:
    """A source as the engine cannot know it; ``partitions`` as ``PartitionedSource`` says them."""

    name: str
    type: str
    running: bool
    events: Mapping[str, int]
    partitions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceFacts:
    """What the engine cannot know of the service around it."""

    phase: state.Phase
    objective_latency_seconds: float
    percentile: float
    stage_names: Sequence[str]
    sources: Sequence[SourceFacts]
    sink_types: Mapping[str, str]
    lane_objectives_seconds: Mapping[str, float] = field(default_factory=dict)
    """Of lanes that serve a traffic class with an objective of its own."""
    health: Sequence[state.ComponentHealth] = ()
    learning: state.LearningReader | None = None
    control: state.ControlReader | None = None
    gpus: Sequence[DeviceUse] = ()
    """As they were in the last second."""

    def objective_of(self, lane: str) -> float:
        """Latency objective of a lane in seconds."""
        return self.lane_objectives_seconds.get(lane, self.objective_latency_seconds)


@dataclass(frozen=True)
class Mark:
    """Totals at one moment, for recent figures to be measured against."""

    at_ns: int
    accounts: Counts
    dropped: Mapping[str, int]
    write_errors: Mapping[str, int]
    lanes: Mapping[str, Counts]
    histograms: Mapping[str, Counts]
    content: Counts
    cells: Counts


class StatusReader:
    """Implements ``StateReader`` for one dispatcher; lives in its event loop.

    Args:
        dispatcher: whose status this is.
        facts: what it cannot know; asked for at each reading.
        decisions: of the controller.
    """

    def __init__(self, dispatcher: Dispatcher, facts: Callable[[], ServiceFacts], decisions: DecisionLog) -> None:
        self.decisions = decisions
        self._dispatcher = dispatcher
        self._facts = facts
        self.readings = Readings(dispatcher.accounts, lambda lane: facts().objective_of(lane))
        self._lag = LoopLag()
        self._lag_seconds = 0.0
        self._knobs = LaneKnobs(dispatcher)
        self._started_seconds = time.time()
        self._started_ns = time.monotonic_ns()
        self._marks: deque[Mark] = deque(maxlen=state.WINDOW_SECONDS + 1)
        self._marks.append(self._mark(facts()))
        self._last = self._marks[0]

    def start(self) -> None:
        """Begin to watch the event loop."""
        self._lag.start()

    def close(self) -> None:
        """Stop listening."""
        self._lag.stop()
        self._dispatcher.accounts.listeners.remove(self.readings.take)

    # -- reading ------------------------------------------------------------------------------
    def tick(self) -> state.ServiceState:
        """See ``StateReader``."""
        facts = self._facts()
        self.readings.follow_lanes()
        self.readings.follow_objectives()
        self._last = self._mark(facts)
        self._marks.append(self._last)
        self._lag_seconds = self._lag.take_largest_seconds()
        self._knobs.read_back()
        return self.read()

    def read(self) -> state.ServiceState:
        """See ``StateReader``."""
        facts, past, now = self._facts(), self._marks[0], self._last
        seconds = max((now.at_ns - past.at_ns) / 1e9, 1e-3)
        lanes = tuple(self._lane(lane, facts, past, now, seconds) for lane in self._dispatcher.lanes)
        objective = _objective(facts, past, now)
        sources = tuple(_source(source) for source in facts.sources)
        control = state.ControlStatus(
            mode="off" if facts.control is None else facts.control.mode,
            outcomes=dict(self.decisions.outcomes),
            refusals=dict(self.decisions.refusals),
            fallback="" if facts.control is None else facts.control.fallback,
        )
        change = np.sum(list(now.lanes.values()), axis=0) - _sum_known(past, now)
        work = _work(change)
        return state.ServiceState(
            version=streamspec.__version__,
            phase=facts.phase,
            now_seconds=time.time(),
            started_seconds=self._started_seconds,
            uptime_seconds=(time.monotonic_ns() - self._started_ns) / 1e9,
            objective=objective,
            totals=self._totals(sources),
            rates=_rates(past, now, seconds, change),
            lanes=lanes,
            sources=sources,
            sinks=tuple(
                state.SinkStatus(runner.name, facts.sink_types.get(runner.name, ""), dict(runner.tally.counts))
                for runner in self._dispatcher.delivery.runners()
            ),
            stages=self._stages(facts),
            content=_content(past, now, self.readings.content, seconds),
            errors=self._errors(facts),
            shed=dict(self._dispatcher.accounts.shed.counts),
            records=dict(self._dispatcher.delivery.records.counts),
            arena=self._arena(),
            fleet=self._fleet(),
            control=control,
            learning=None if facts.learning is None else facts.learning.status(),
            health=self._health(facts, lanes, past, now),
            work_error_ratio=work.error_ratio,
            work_cells=_cells(past, now),
            loop_lag_seconds=self._lag_seconds,
            gpus=tuple(facts.gpus),
        )

    def histograms(self) -> state.Histograms:
        """See ``StateReader``."""
        self.readings.follow_lanes()
        accounts = self._dispatcher.accounts
        names, sums = accounts.lane_names, self.readings.lanes
        return state.Histograms(
            latency=_histograms(names, accounts.histograms[:, 0], sums[:, columns.LATENCY_NS]),
            wait=_histograms(names, accounts.histograms[:, 1], sums[:, columns.WAIT_NS]),
            useful=_histograms(names, self.readings.useful, sums[:, columns.USEFUL_NS]),
            loop_lag=self._lag.histogram(),
        )

    # -- parts --------------------------------------------------------------------------------
    def _mark(self, facts: ServiceFacts) -> Mark:
        accounts, names = self._dispatcher.accounts, list(self._dispatcher.accounts.lane_names)
        return Mark(
            at_ns=time.monotonic_ns(),
            accounts=accounts.vector.copy(),
            dropped={source.name: _source(source).dropped for source in facts.sources},
            write_errors={runner.name: runner.tally["write_errors"] for runner in self._dispatcher.delivery.runners()},
            lanes=dict(zip(names, self.readings.lanes.copy(), strict=True)),
            histograms=dict(zip(names, accounts.histograms.copy(), strict=True)),
            content=self.readings.content.copy(),
            cells=self.readings.cells.copy(),
        )

    def _lane(self, lane: Lane, facts: ServiceFacts, past: Mark, now: Mark, seconds: float) -> state.LaneStatus:
        row = self.readings.lanes[lane.index]
        recent = _recent(past.lanes, now.lanes, lane.name)
        histograms = _recent(past.histograms, now.histograms, lane.name)
        oldest_ns = lane.oldest_arrival_ns()
        extra = () if facts.control is None else facts.control.knobs(lane.name)
        return state.LaneStatus(
            name=lane.name,
            index=lane.index,
            urgency=lane.urgency,
            objective_seconds=facts.objective_of(lane.name),
            queued_segments=len(lane),
            in_flight_segments=sum(worker.in_flight for worker in lane.workers),
            oldest_seconds=max(time.monotonic_ns() - oldest_ns, 0) / 1e9 if oldest_ns else 0.0,
            delivered_segments=int(row[columns.SEGMENTS]),
            delivered_bytes=int(row[columns.BYTES]),
            late_segments=int(row[columns.LATE]),
            useful_seconds=int(row[columns.USEFUL_NS]) / 1e9,
            work=_work(row),
            segments_per_second=float(recent[columns.SEGMENTS]) / seconds if recent is not None else 0.0,
            bytes_per_second=float(recent[columns.BYTES]) / seconds if recent is not None else 0.0,
            latency_p50_seconds=_percentile(histograms, 0, 50.0),
            latency_high_seconds=_percentile(histograms, 0, facts.percentile),
            wait_high_seconds=_percentile(histograms, 1, facts.percentile),
            busy_ratio=_busy(recent, seconds, len(lane.workers)),
            workers=self._knobs.workers(lane),
            knobs=self._knobs.knobs(lane, extra),
        )

    def _totals(self, sources: Sequence[state.SourceStatus]) -> state.Totals:
        accounts = self._dispatcher.accounts
        return state.Totals(
            received_segments=accounts.received_segments,
            received_packets=accounts.received_packets,
            received_bytes=accounts.received_bytes,
            delivered_segments=accounts.delivered_segments,
            delivered_bytes=accounts.delivered_bytes,
            shed_segments=accounts.shed_segments,
            dead_lettered_segments=accounts.dead_lettered_segments,
            unfinished_segments=accounts.unfinished_segments,
            retries=accounts.retries,
            dropped_packets=sum(source.dropped for source in sources),
        )

    def _stages(self, facts: ServiceFacts) -> tuple[state.StageStatus, ...]:
        counts = self._dispatcher.stage_counts
        return tuple(
            state.StageStatus(name, int(useful) / 1e9, dict(counts[name].counts) if name in counts else {})
            for name, useful in zip(facts.stage_names, self.readings.stages, strict=False)
        )

    def _errors(self, facts: ServiceFacts) -> tuple[state.ErrorCount, ...]:
        names = facts.stage_names
        return tuple(
            state.ErrorCount(
                ERROR_KINDS[kind], names[stage] if stage < len(names) else "", int(self.readings.errors[kind, stage])
            )
            for kind, stage in np.argwhere(self.readings.errors).tolist()
        )

    def _arena(self) -> state.ArenaStatus:
        arena = self._dispatcher.arena
        return state.ArenaStatus(arena.slots, arena.free_slots, arena.size_bytes)

    def _fleet(self) -> state.FleetStatus:
        fleet = self._dispatcher.fleet
        present = fleet.present()
        return state.FleetStatus(
            size=fleet.size,
            ready=len(present),
            standing_by=sum(worker.lane < 0 for worker in present),
            restarts=fleet.restarts,
        )

    def _health(
        self, facts: ServiceFacts, lanes: Sequence[state.LaneStatus], past: Mark, now: Mark
    ) -> tuple[state.ComponentHealth, ...]:
        owners = [owner.health() for owner in (facts.learning, facts.control) if owner is not None]
        late = {lane.name: _late_ratio(_recent(past.lanes, now.lanes, lane.name)) for lane in lanes}
        shed = int((now.accounts - past.accounts)[kernels.SHED_SEGMENTS])
        own = findings(
            phase=facts.phase,
            fleet=self._fleet(),
            sources={source.name: source.running for source in facts.sources},
            dropped={name: count - past.dropped.get(name, 0) for name, count in now.dropped.items()},
            write_errors={name: count - past.write_errors.get(name, 0) for name, count in now.write_errors.items()},
            lanes=lanes,
            late_ratios=late,
            objective=state.ObjectiveStatus(facts.objective_latency_seconds, facts.percentile),
            shed=shed,
        )
        return (*own, *facts.health, *(part for owner in owners for part in owner))


# -- arithmetic -------------------------------------------------------------------------------
def _source(source: SourceFacts) -> state.SourceStatus:
    events = source.events
    return state.SourceStatus(
        source.name,
        source.type,
        source.running,
        dict(events),
        {name: {what: float(n) for what, n in row.items()} for name, row in source.partitions.items()},
        kernel_dropped=events.get("kernel_drops", 0),
        socket_dropped=events.get("socket_drops", 0),
        arena_dropped=events.get("arena_full_drops", 0),
    )


def _recent(past: Mapping[str, Counts], now: Mapping[str, Counts], name: str) -> Counts | None:
    if name not in now:
        return None
    recent: Counts = now[name] - past[name] if name in past else now[name]
    return recent


def _sum_known(past: Mark, now: Mark) -> Counts:
    known = [past.lanes[name] for name in now.lanes if name in past.lanes]
    return np.sum(known, axis=0) if known else np.zeros(columns.COLUMNS, dtype=np.int64)


def _work(row: Counts) -> state.WorkTotals:
    return state.WorkTotals(
        segments=int(row[columns.PREDICTED_SEGMENTS]),
        predicted_seconds=int(row[columns.PREDICTED_NS]) / 1e9,
        measured_seconds=int(row[columns.MEASURED_NS]) / 1e9,
        error_seconds=int(row[columns.ERROR_NS]) / 1e9,
        above_upper_segments=int(row[columns.ABOVE_UPPER]),
    )


def _busy(recent: Counts | None, seconds: float, workers: int) -> float:
    if recent is None or not workers:
        return 0.0
    return min(float(recent[columns.USEFUL_NS]) / 1e9 / seconds / workers, 1.0)


def _percentile(histograms: Counts | None, which: int, percentile: float) -> float | None:
    if histograms is None or not histograms[which].any():
        return None
    return percentile_ns(histograms[which], percentile) / 1e9


def _late_ratio(recent: Counts | None) -> float | None:
    if recent is None or not recent[columns.SEGMENTS]:
        return None
    return float(recent[columns.LATE] / recent[columns.SEGMENTS])


def _objective(facts: ServiceFacts, past: Mark, now: Mark) -> state.ObjectiveStatus:
    ratios = [_late_ratio(_recent(past.lanes, now.lanes, name)) for name in now.lanes]
    known = [ratio for ratio in ratios if ratio is not None]
    allowed = 1.0 - facts.percentile / 100.0
    met = all(ratio <= allowed for ratio in known) if known else None
    return state.ObjectiveStatus(facts.objective_latency_seconds, facts.percentile, met)


def _rates(past: Mark, now: Mark, seconds: float, lanes: Counts) -> state.Rates:
    change = (now.accounts - past.accounts) / seconds
    dropped = sum(now.dropped.values()) - sum(past.dropped.get(name, 0) for name in now.dropped)
    return state.Rates(
        received_segments=float(change[kernels.RECEIVED_SEGMENTS]),
        received_packets=float(change[kernels.RECEIVED_PACKETS]),
        received_bytes=float(change[kernels.RECEIVED_BYTES]),
        delivered_segments=float(change[kernels.DELIVERED_SEGMENTS]),
        shed_segments=float(change[kernels.SHED_SEGMENTS]),
        dead_lettered_segments=float(change[kernels.DEAD_SEGMENTS]),
        dropped_packets=dropped / seconds,
        predicted_seconds=int(lanes[columns.PREDICTED_NS]) / 1e9 / seconds
        if lanes[columns.PREDICTED_SEGMENTS]
        else None,
        measured_seconds=int(lanes[columns.USEFUL_NS]) / 1e9 / seconds,
    )


def _content(past: Mark, now: Mark, totals: Counts, seconds: float) -> tuple[state.ContentShare, ...]:
    change = (now.content - past.content) / seconds
    return tuple(
        state.ContentShare(name, int(total[0]), int(total[1]), float(recent[0]), float(recent[1]))
        for name, total, recent in zip(CONTENT_NAMES, totals, change, strict=True)
        if total[0]
    )


def _cells(past: Mark, now: Mark) -> tuple[tuple[int, int, int], ...]:
    change = now.cells - past.cells
    return tuple((i, j, int(change[i, j])) for i, j in np.argwhere(change > 0).tolist())


def _histograms(names: Sequence[str], counts: Counts, sums_ns: Counts) -> dict[str, state.Histogram]:
    below = np.cumsum(counts, axis=1)
    return {
        name: state.Histogram(
            tuple(zip(_EDGES_SECONDS, row[_EDGE_BUCKETS - 1].tolist(), strict=True)), int(sum_ns) / 1e9, int(row[-1])
        )
        for name, row, sum_ns in zip(names, below, sums_ns, strict=True)
    }
