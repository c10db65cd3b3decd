"""The observer: what arrived, what finished and what waits, as the ``Observation`` of one control period."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from streamspec.core.control import (
    COST_BINS,
    DEFAULT_TRAFFIC,
    EVERYTHING,
    CacheState,
    CostHistogram,
    HostState,
    LaneState,
    ModelHealth,
    Objective,
    Observation,
    SinkState,
    SpeedUp,
    TrafficState,
    VariantState,
)
from streamspec.core.interfaces import Counts, Rows, Slots
from streamspec.core.prediction import PREDICTION
from streamspec.engine import kernels
from streamspec.engine import observer_kernels as columns
from streamspec.engine.accounts import percentile_ns
from streamspec.engine.foresight_kernels import LOOK
from streamspec.engine.observer_kernels import Floats

if TYPE_CHECKING:
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.engine.lane import Lane

SPEED_SAMPLE_SHARE = 0.2
"""Weight of the newest sample of the speed-up curve."""


@dataclass(frozen=True)
class Traffic:
    """A traffic class: the objective that its lanes are held to."""

    name: str = DEFAULT_TRAFFIC
    objective: Objective = field(default_factory=Objective)
    urgency: int = 0


@dataclass
class Sums:
    """What is counted; see ``observer_kernels`` for the columns."""

    bins: Floats
    tenths: Floats
    keys: Floats
    waits: Floats
    variants: Floats
    model: Floats
    lanes: Floats
    seconds: float = 0.0
    shed: int = 0

    @classmethod
    def empty(cls, traffic: int, variants: int, lanes: int) -> Sums:
        """All zero."""
        return cls(
            bins=np.zeros((traffic, COST_BINS, columns.BIN_COLUMNS)),
            tenths=np.zeros((traffic, columns.TENTHS)),
            keys=np.zeros((traffic, columns.KEY_BUCKETS)),
            waits=np.zeros((traffic, columns.WAIT_COLUMNS)),
            variants=np.zeros((variants, columns.VARIANT_COLUMNS)),
            model=np.zeros(columns.MODEL_COLUMNS),
            lanes=np.zeros((lanes, columns.LANE_COLUMNS)),
        )

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


class Observer:
    """Counts for one dispatcher. Kernels add to the sums of the present period; :meth:`observe` closes the period and
    tells the rates of the last ones together.

    Args:
        traffic: at least one class.
        window: periods that rates are taken over.
        variants, variant_stage, default_variant: of the stage whose variants are predicted; 0 and -1 for none.
    """

    def __init__(
        self,
        traffic: Sequence[Traffic],
        *,
        window: int = 1,
        variants: int = 0,
        variant_stage: int = -1,
        default_variant: int = 0,
    ) -> None:
        self.traffic = list(traffic)
        self._variant_stage = variant_stage
        self._default_variant = default_variant
        self._variant_count = variants
        self._objectives_ns: Floats = np.array([t.objective.latency_seconds * 1e9 for t in self.traffic])
        self._past: deque[Sums] = deque(maxlen=window - 1)
        self._window = window
        self._sums = Sums.empty(len(self.traffic), variants, 1)
        self._speeds: list[float] = [0.0]
        self._speed_samples: list[int] = [0]
        self._since_ns = 0
        self._shed = 0
        self.set_lanes([0], np.zeros((1, 2, kernels.HISTOGRAM_BUCKETS), dtype=np.int64))

    def set_lanes(self, traffic_of_lane: Sequence[int], histograms: Counts) -> None:
        """Other lanes from now on, each with the index of its traffic class. ``histograms``: what the accounts
        know of them so far, which is not of the window that begins."""
        self._traffic_of_lane: Counts = np.array(traffic_of_lane, dtype=np.int64)
        lanes = np.zeros((len(traffic_of_lane), columns.LANE_COLUMNS))
        for sums in self._past:
            sums.lanes = lanes.copy()
        self._sums.lanes = lanes
        self._histograms: deque[Counts] = deque([histograms.copy()], maxlen=self._window)
        self._waiting_before: set[int] = set()

    # -- counting -----------------------------------------------------------------------------
    def arrived(self, headers: Rows, slots: Slots, predictions: Rows, looks: Rows, now_ns: int) -> None:
        """Segments were routed."""
        tenth = now_ns // 100_000_000 % columns.TENTHS
        columns.arrived(
            headers,
            slots,
            predictions,
            looks,
            self._traffic_of_lane,
            tenth,
            self._sums.bins,
            self._sums.tenths,
            self._sums.keys,
            self._sums.lanes,
            self._sums.variants,
            self._sums.model,
        )

    def finished(self, outcomes: Rows) -> None:
        """Segments are finished; a listener of the accounts."""
        columns.finished(
            outcomes,
            self._traffic_of_lane,
            self._objectives_ns,
            self._variant_stage,
            self._sums.bins,
            self._sums.waits,
            self._sums.lanes,
            self._sums.variants,
            self._sums.model,
        )

    def warm(self) -> None:
        """Compile or load the kernels."""
        from streamspec.core.outcome import OUTCOME
        from streamspec.core.segment import HEADER

        nothing = np.zeros(0, dtype=np.int32)
        self.arrived(np.zeros(1, dtype=HEADER), nothing, np.zeros(1, dtype=PREDICTION), np.zeros(1, dtype=LOOK), 0)
        self.finished(np.zeros(0, dtype=OUTCOME))

    # -- reading ------------------------------------------------------------------------------
    def limits_ns(self) -> list[float]:
        """The latency that each lane is held to, by index."""
        limits: list[float] = self._objectives_ns[self._traffic_of_lane].astype(float).tolist()
        return limits

    def observe(
        self,
        dispatcher: Dispatcher,
        now_ns: int,
        *,
        objective: Objective,
        usable_cores: int,
        workers_ceiling: int,
        cuts: Mapping[str, float],
        changed_ns: Mapping[str, int],
        host: HostState,
        caches: tuple[CacheState, ...] = (),
        targets: Mapping[str, float] | None = None,
        price: float | None = None,
        published_ns: int = 0,
        started_ns: int = 0,
        drift: bool = False,
        trusted: bool = True,
        glance: bool = False,
    ) -> Observation:
        """The rates of the window and the present state; ends the period.

        Args:
            glance: look without ending the period.
            dispatcher: read, not changed.
            cuts, changed_ns: by lane: its cut point, and when it last changed.
            published_ns: when the predictor in use was published or confirmed last.
        """
        present = self._close_period(dispatcher, now_ns)
        window = sum(self._past, present)
        if not glance:
            self._learn_speed(dispatcher, present)
        traffic = range(len(self.traffic))
        observation = Observation(
            now_seconds=now_ns / 1e9,
            window_seconds=window.seconds,
            since_start_seconds=(now_ns - started_ns) / 1e9 if started_ns else math.inf,
            objective=objective,
            usable_cores=usable_cores,
            workers_ceiling=workers_ceiling,
            workers_observed=len(dispatcher.fleet.present()),
            lanes=tuple(self._lane(dispatcher, lane, now_ns, window, cuts, changed_ns) for lane in dispatcher.lanes),
            traffic=tuple(self._traffic(index, window) for index in traffic),
            arena_used_ratio=1.0 - dispatcher.arena.free_slots / dispatcher.arena.slots,
            shed_per_second=window.shed / window.seconds,
            model=self._model_health(dispatcher, window, now_ns, published_ns, drift=drift, trusted=trusted),
            speed_up=SpeedUp(tuple(self._speeds), tuple(self._speed_samples)),
            variants=self._variant_states(window),
            variant_price=price,
            routed_work_seconds_per_second=float(window.bins[:, :, columns.ARRIVED_WORK].sum()) / 1e9 / window.seconds,
            host=host,
            sinks=self._sinks(dispatcher, window, now_ns),
            caches=caches,
            targets=dict(targets or {}),
        )
        if not glance:
            self._since_ns = now_ns
            self._shed += present.shed
            self._past.append(present)
            self._sums = Sums.empty(len(traffic), self._variant_count, len(self._traffic_of_lane))
            self._histograms.append(dispatcher.accounts.histograms.copy())
        return observation

    def _close_period(self, dispatcher: Dispatcher, now_ns: int) -> Sums:
        """The present sums with their duration."""
        present = self._sums
        present.seconds = max((now_ns - self._since_ns) / 1e9, 1e-3) if self._since_ns else 1.0
        present.shed = sum(dispatcher.accounts.shed.counts.values()) - self._shed
        return present

    def _lane(
        self,
        dispatcher: Dispatcher,
        lane: Lane,
        now_ns: int,
        window: Sums,
        cuts: Mapping[str, float],
        changed_ns: Mapping[str, int],
    ) -> LaneState:
        row, seconds = window.lanes[lane.index], window.seconds
        histogram = dispatcher.accounts.histograms[lane.index, 0] - self._histograms[0][lane.index, 0]
        queued_ns, upper_ns = lane.queued_work_ns(dispatcher.predictions, self._variant_stage)
        workers = len(lane.workers)
        oldest_ns = lane.oldest_arrival_ns()
        changed = changed_ns.get(lane.name)
        return LaneState(
            name=lane.name,
            index=lane.index,
            allocation=lane.allocation,
            traffic=self.traffic[self._traffic_of_lane[lane.index]].name,
            up_to_work_ns=cuts.get(lane.name, EVERYTHING),
            workers_observed=workers,
            queued=len(lane),
            queued_work_seconds=queued_ns / 1e9,
            queued_upper_seconds=upper_ns / 1e9,
            in_flight=sum(worker.in_flight for worker in lane.workers),
            oldest_age_seconds=max((now_ns - oldest_ns) / 1e9, 0.0) if oldest_ns else 0.0,
            arrivals_per_second=row[columns.LANE_ARRIVED] / seconds,
            finished_per_second=row[columns.LANE_FINISHED] / seconds,
            useful_seconds_per_second=row[columns.LANE_USEFUL] / 1e9 / seconds,
            busy_ratio=min(row[columns.LANE_SERVICE] / 1e9 / seconds / workers, 1.0) if workers else 0.0,
            latency_p50_seconds=_seconds(percentile_ns(histogram, 50)),
            latency_p99_seconds=_seconds(percentile_ns(histogram, 99)),
            miss_ratio=_ratio(row[columns.LANE_MISSED], row[columns.LANE_FINISHED]),
            since_change_seconds=math.inf if changed is None else (now_ns - changed) / 1e9,
        )

    def _traffic(self, index: int, window: Sums) -> TrafficState:
        traffic, bins, waits = self.traffic[index], window.bins[index], window.waits[index]
        tenths, keys = window.tenths[index], window.keys[index]
        work = float(tenths.sum())
        # In a thousand buckets, a bucket holds its share of all other keys beside its heaviest one.
        heaviest = max(float(keys.max()) - work / columns.KEY_BUCKETS, 0.0)
        per_second = bins / window.seconds
        return TrafficState(
            name=traffic.name,
            objective=traffic.objective,
            urgency=traffic.urgency,
            arrivals=CostHistogram(
                per_second=tuple(per_second[:, columns.ARRIVED_SEGMENTS].tolist()),
                work_seconds_per_second=tuple((per_second[:, columns.ARRIVED_WORK] / 1e9).tolist()),
                finished_per_second=tuple(per_second[:, columns.FINISHED].tolist()),
                misses_per_second=tuple(per_second[:, columns.MISSED].tolist()),
                measured_seconds_per_second=tuple((per_second[:, columns.MEASURED] / 1e9).tolist()),
                measured_squares_per_second=tuple((per_second[:, columns.MEASURED_SQUARES] / 1e18).tolist()),
            ),
            heaviest_key_ratio=_ratio(heaviest, work),
            order_wait_ratio=_ratio(waits[columns.ORDER_SUM], waits[columns.LATENCY_SUM]),
            burst_ratio=max(_ratio(float(tenths.max()) * columns.TENTHS, work), 1.0),
        )

    def _model_health(
        self, dispatcher: Dispatcher, window: Sums, now_ns: int, published_ns: int, *, drift: bool, trusted: bool
    ) -> ModelHealth:
        model = window.model
        foresight = dispatcher.foresight
        predictor = foresight.predictor if foresight is not None else None
        return ModelHealth(
            version=predictor.version if predictor is not None else 0,
            trusted=trusted and predictor is not None,
            age_seconds=(now_ns - published_ns) / 1e9 if published_ns else 0.0,
            samples=int(model[columns.SAMPLES]),
            error_ratio=_ratio(model[columns.ABSOLUTE_ERROR], model[columns.MODEL_MEASURED]),
            bias_ratio=_ratio(model[columns.MODEL_MEASURED], model[columns.MODEL_PREDICTED], 1.0),
            above_upper_ratio=_ratio(model[columns.ABOVE_UPPER], model[columns.SAMPLES]),
            drift=drift,
            unusable_ratio=_ratio(model[columns.UNUSABLE], model[columns.LOOKED]),
        )

    def _variant_states(self, window: Sums) -> tuple[VariantState, ...]:
        chosen = float(window.variants[:, columns.VARIANT_CHOSEN].sum())
        return tuple(
            VariantState(
                index=index,
                chosen_ratio=_ratio(row[columns.VARIANT_CHOSEN], chosen),
                work_seconds_per_second=float(row[columns.VARIANT_WORK]) / 1e9 / window.seconds,
                bytes_out_per_second=float(row[columns.VARIANT_BYTES]) / window.seconds,
                default=index == self._default_variant,
            )
            for index, row in enumerate(window.variants)
        )

    def _sinks(self, dispatcher: Dispatcher, window: Sums, now_ns: int) -> SinkState:
        waiting, oldest_ns = kernels.sink_backlog(dispatcher.arena.headers, now_ns)
        sums = window.waits.sum(axis=0)
        return SinkState(waiting, oldest_ns / 1e9, _ratio(sums[columns.SINK_SUM], sums[columns.LATENCY_SUM]))

    def _learn_speed(self, dispatcher: Dispatcher, present: Sums) -> None:
        """Only of lanes that had waiting work at both ends of the period: idle time is not a lack of capacity."""
        waiting = {lane.index for lane in dispatcher.lanes if len(lane) and lane.workers}
        sampled = [lane for lane in dispatcher.lanes if lane.index in waiting & self._waiting_before]
        self._waiting_before = waiting
        workers = sum(len(lane.workers) for lane in sampled)
        if not workers:
            return
        useful = sum(present.lanes[lane.index, columns.LANE_USEFUL] for lane in sampled) / 1e9 / present.seconds
        missing = workers + 1 - len(self._speeds)
        self._speeds += [0.0] * missing
        self._speed_samples += [0] * missing
        known = self._speeds[workers]
        self._speeds[workers] = useful if not known else known + SPEED_SAMPLE_SHARE * (useful - known)
        self._speed_samples[workers] += 1


def _ratio(part: float, whole: float, otherwise: float = 0.0) -> float:
    return float(part / whole) if whole > 0 else otherwise


def _seconds(value_ns: float) -> float | None:
    return None if math.isnan(value_ns) else value_ns / 1e9
