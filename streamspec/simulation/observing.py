"""What the simulated service sees of itself: the plant's records of a window as an ``Observation``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamspec.core.control import (
    COST_BINS,
    CostHistogram,
    LaneState,
    ModelHealth,
    Observation,
    SinkState,
    SpeedUp,
    TrafficState,
    VariantState,
    cost_bins,
)
from streamspec.simulation import kernels
from streamspec.simulation.plant import Plant

Ids = npt.NDArray[np.int64]
SPEED_MEMORY_SECONDS = 120.0


@dataclass
class ModelSetting:
    """What the simulated predictor says of itself: constants, so that tests can freeze it or let it lie."""

    trusted: bool = True
    drift: bool = False
    frozen_at_seconds: float = float("inf")
    """From then on no snapshot is published."""


@dataclass(frozen=True)
class _Mark:
    at_seconds: float
    admitted: int
    finished: int
    shed: int
    useful: npt.NDArray[np.float64]
    busy: npt.NDArray[np.float64]


@dataclass
class Observer:
    """Takes one observation after the other of a plant; each looks back ``window_seconds``."""

    plant: Plant
    window_seconds: float = 1.0
    model: ModelSetting = field(default_factory=ModelSetting)

    def __post_init__(self) -> None:
        self._marks: deque[_Mark] = deque([self._mark()])
        self._changed: dict[str, tuple[object, float]] = {}
        self._by_busy = self.plant.by_busy.copy()
        self._speed = np.zeros_like(self._by_busy)
        self._speed_at = 0.0
        self._last_speed_up = SpeedUp()

    def _mark(self) -> _Mark:
        marks = self.plant.marks
        return _Mark(
            self.plant.now_seconds,
            int(marks[kernels.ADMITTED]),
            int(marks[kernels.FINISHED]),
            int(marks[kernels.SHED]),
            self.plant.lane_useful.copy(),
            self.plant.lane_busy.copy(),
        )

    def observe(self) -> Observation:
        """The service as it is now."""
        plant, now = self.plant, self.plant.now_seconds
        while len(self._marks) > 1 and self._marks[1].at_seconds <= now - self.window_seconds + 1e-9:
            self._marks.popleft()
        start, end = self._marks[0], self._mark()
        if end.at_seconds > self._marks[-1].at_seconds:
            self._marks.append(end)
        window = max(now - start.at_seconds, 1e-3)
        arrived = np.arange(start.admitted, end.admitted)
        over = plant.log[start.finished : end.finished].astype(np.int64)
        held = np.flatnonzero((plant.state > kernels.AHEAD) & (plant.state < kernels.DONE)) if now else arrived[:0]
        traffic = tuple(self._traffic(index, arrived, over, window) for index in range(len(plant.traffic)))
        return Observation(
            now_seconds=now,
            window_seconds=window,
            since_start_seconds=now,
            objective=plant.traffic[0].objective,
            usable_cores=plant.setting.cores,
            workers_ceiling=plant.setting.workers_ceiling,
            workers_observed=plant.setting.workers_ceiling,
            lanes=tuple(
                self._lane(index, arrived, over, held, start, end, window) for index in range(len(plant.plan.lanes))
            ),
            traffic=traffic,
            arena_used_ratio=float(plant.marks[kernels.USED_SLOTS]) / plant.setting.slots,
            shed_per_second=(end.shed - start.shed) / window,
            model=self._health(arrived, over),
            speed_up=self._speed_up(),
            variants=self._variants(arrived, window),
            variant_price=plant.plan.variant_price,
            routed_work_seconds_per_second=float(np.nansum(self._predicted(arrived))) / 1e9 / window,
            sinks=self._sinks(over),
            targets=plant.plan.targets,
        )

    def glance(self) -> Observation:
        """Queues and arena only, for reflexes between decisions."""
        plant = self.plant
        lanes = []
        for index, lane in enumerate(plant.plan.lanes):
            queue = plant.queue_of(index)
            first = float(plant.admitted_ns[queue[0]]) / 1e9 if len(queue) else plant.now_seconds
            lanes.append(
                LaneState(
                    name=lane.name,
                    index=index,
                    allocation=lane.allocation,
                    traffic=lane.traffic,
                    workers_observed=lane.allocation.workers,
                    queued=len(queue),
                    queued_work_seconds=float(np.nansum(self._predicted(queue.astype(np.int64)))) / 1e9,
                    queued_upper_seconds=float(np.nansum(plant.workload.upper_ns[queue])) / 1e9,
                    oldest_age_seconds=plant.now_seconds - first,
                )
            )
        return Observation(
            now_seconds=plant.now_seconds,
            window_seconds=self.window_seconds,
            since_start_seconds=plant.now_seconds,
            objective=plant.traffic[0].objective,
            usable_cores=plant.setting.cores,
            workers_ceiling=plant.setting.workers_ceiling,
            lanes=tuple(lanes),
            traffic=tuple(TrafficState(t.name, t.objective, t.urgency) for t in plant.traffic),
            arena_used_ratio=float(plant.marks[kernels.USED_SLOTS]) / plant.setting.slots,
            speed_up=self._last_speed_up,
        )

    def _predicted(self, segments: Ids) -> npt.NDArray[np.float64]:
        picked: npt.NDArray[np.float64] = self.plant.workload.predicted_ns[segments, self.plant.variant[segments]]
        return picked

    def _latency(self, segments: Ids) -> npt.NDArray[np.float64]:
        plant = self.plant
        latency = plant.finished_ns[segments] - plant.admitted_ns[segments]  # the service knows no earlier time
        result: npt.NDArray[np.float64] = np.where(plant.state[segments] == kernels.DROPPED, np.inf, latency) / 1e9
        return result

    def _traffic(self, index: int, arrived: Ids, over: Ids, window: float) -> TrafficState:
        plant, setting = self.plant, self.plant.traffic[index]
        arrived = arrived[plant.workload.traffic[arrived] == index]
        over = over[plant.workload.traffic[over] == index]
        predicted = np.nan_to_num(self._predicted(arrived), nan=0.0, posinf=0.0)
        latency = self._latency(over)
        bins, over_bins = cost_bins(predicted), cost_bins(self._predicted(over))

        def by_bin(places: Ids, weights: npt.NDArray[np.float64] | None = None) -> tuple[float, ...]:
            return tuple((np.bincount(places, weights, COST_BINS) / window).tolist())

        measured = plant.workload.work_ns[over, plant.variant[over]] / 1e9
        waits = (plant.released_ns[over] - plant.done_ns[over])[np.isfinite(latency)]
        total = latency[np.isfinite(latency)].sum()
        return TrafficState(
            name=setting.name,
            objective=setting.objective,
            urgency=setting.urgency,
            arrivals=CostHistogram(
                per_second=by_bin(bins),
                work_seconds_per_second=by_bin(bins, predicted / 1e9),
                finished_per_second=by_bin(over_bins),
                misses_per_second=by_bin(over_bins, (latency > setting.objective.latency_seconds).astype(float)),
                measured_seconds_per_second=by_bin(over_bins, measured),
                measured_squares_per_second=by_bin(over_bins, measured**2),
            ),
            heaviest_key_ratio=_heaviest(plant.workload.key[arrived], predicted),
            order_wait_ratio=float(waits.sum() / 1e9 / total) if total > 0 else 0.0,
            burst_ratio=_burst(plant.workload.arrival_ns[arrived], predicted),
        )

    def _lane(
        self, index: int, arrived: Ids, over: Ids, held: Ids, start: _Mark, end: _Mark, window: float
    ) -> LaneState:
        plant, lane = self.plant, self.plant.plan.lanes[index]
        objective = next(t.objective for t in plant.traffic if t.name == lane.traffic)
        over = over[plant.lane_of[over] == index]
        latency = self._latency(over)
        queue = plant.queue_of(index)
        mine = held[plant.lane_of[held] == index]
        predicted = np.nan_to_num(self._predicted(mine), nan=0.0, posinf=0.0)
        busy = float(end.busy[index] - start.busy[index]) / 1e9
        return LaneState(
            name=lane.name,
            index=index,
            allocation=lane.allocation,
            traffic=lane.traffic,
            up_to_work_ns=lane.up_to_work_ns,
            workers_observed=lane.allocation.workers,
            queued=len(queue),
            queued_work_seconds=float(predicted.sum()) / 1e9,
            queued_upper_seconds=float(np.nansum(np.maximum(plant.workload.upper_ns[mine], predicted))) / 1e9,
            in_flight=len(mine) - len(queue),
            oldest_age_seconds=plant.now_seconds - float(plant.admitted_ns[queue[0]]) / 1e9 if len(queue) else 0.0,
            arrivals_per_second=float((plant.lane_of[arrived] == index).sum()) / window,
            finished_per_second=len(over) / window,
            useful_seconds_per_second=float(end.useful[index] - start.useful[index]) / 1e9 / window,
            busy_ratio=min(busy / window / max(lane.allocation.workers, 1), 1.0),
            latency_p50_seconds=float(np.median(latency)) if len(over) else None,
            latency_p99_seconds=float(np.quantile(latency, 0.99, method="lower")) if len(over) else None,
            miss_ratio=float((latency > objective.latency_seconds).mean()) if len(over) else 0.0,
            since_change_seconds=self._since_change(lane.name, lane),
        )

    def _since_change(self, name: str, lane: object) -> float:
        known = self._changed.get(name)
        if known is None or known[0] != lane:
            self._changed[name] = known = (lane, self.plant.now_seconds)
        return self.plant.now_seconds - known[1]

    def _health(self, arrived: Ids, over: Ids) -> ModelHealth:
        plant, work = self.plant, self.plant.workload
        usable = over[work.usable[over] & np.isfinite(self._predicted(over))]
        predicted, measured = self._predicted(usable), work.work_ns[usable, plant.variant[usable]]
        total = measured.sum()
        dearer = predicted / np.maximum(work.predicted_ns[usable, work.default_variant], 1.0)
        upper = np.maximum(work.upper_ns[usable] * dearer, predicted)
        return ModelHealth(
            version=1,
            trusted=self.model.trusted,
            age_seconds=max(plant.now_seconds - self.model.frozen_at_seconds, 0.0),
            samples=len(usable),
            error_ratio=float(np.abs(predicted - measured).sum() / total) if total > 0 else 0.0,
            bias_ratio=float(total / predicted.sum()) if len(usable) and predicted.sum() > 0 else 1.0,
            above_upper_ratio=float((measured > upper).mean()) if len(usable) else 0.0,
            drift=self.model.drift,
            inside_ratio=float(work.inside[arrived].mean()) if len(arrived) else 1.0,
            unusable_ratio=float(
                1.0 - (work.usable[arrived] & np.isfinite(work.predicted_ns[arrived]).all(axis=1)).mean()
            )
            if len(arrived)
            else 0.0,
        )

    def _speed_up(self) -> SpeedUp:
        """From the time spent with each number of busy workers; what is old fades."""
        elapsed = self.plant.now_seconds - self._speed_at
        self._speed_at = self.plant.now_seconds
        self._speed *= np.exp(-elapsed / SPEED_MEMORY_SECONDS)
        self._speed += self.plant.by_busy - self._by_busy
        self._by_busy = self.plant.by_busy.copy()
        enough = self._speed[0] > 0.05e9
        curve = np.where(enough, self._speed[1] / np.maximum(self._speed[0], 1.0), 0.0)
        curve[0] = 0.0
        last = int(np.flatnonzero(enough)[-1]) if enough.any() else 0
        self._last_speed_up = SpeedUp(
            tuple(curve[: last + 1].tolist()), tuple((self._speed[0, : last + 1] / 1e6).astype(int).tolist())
        )
        return self._last_speed_up

    def _variants(self, arrived: Ids, window: float) -> tuple[VariantState, ...]:
        work = self.plant.workload
        if work.work_ns.shape[1] == 1:
            return ()
        seconds = np.nansum(work.predicted_ns[arrived], axis=0) / 1e9 / window
        out = (work.predicted_ratio[arrived] * work.length[arrived, None]).sum(axis=0) / window
        chosen = np.bincount(self.plant.variant[arrived], minlength=len(seconds)) / max(len(arrived), 1)
        return tuple(
            VariantState(v, float(chosen[v]), float(seconds[v]), float(out[v]), v == work.default_variant)
            for v in range(len(seconds))
        )

    def _sinks(self, over: Ids) -> SinkState:
        plant = self.plant
        waiting = int(plant.marks[kernels.SINK_COUNT])
        first = int(plant.sink_ring[plant.marks[kernels.SINK_HEAD]])
        latency = self._latency(over)
        total = latency[np.isfinite(latency)].sum()
        wait = (plant.finished_ns[over] - plant.released_ns[over])[np.isfinite(latency)].sum() / 1e9
        return SinkState(
            waiting=waiting,
            oldest_age_seconds=plant.now_seconds - float(plant.released_ns[first]) / 1e9 if waiting else 0.0,
            wait_ratio=float(wait / total) if total > 0 else 0.0,
        )


def _heaviest(keys: npt.NDArray[np.int64], work: npt.NDArray[np.float64]) -> float:
    total = work.sum()
    if total <= 0:
        return 0.0
    _, places = np.unique(keys, return_inverse=True)
    return float(np.bincount(places, work).max() / total)


def _burst(arrival_ns: npt.NDArray[np.float64], work: npt.NDArray[np.float64]) -> float:
    if len(arrival_ns) < 2 or work.sum() <= 0:
        return 1.0
    span = max(float(arrival_ns[-1] - arrival_ns[0]), 1.0)
    tenth = np.minimum((arrival_ns - arrival_ns[0]) / span * 10, 9).astype(np.int64)
    parts = np.bincount(tenth, work, 10)
    return float(parts.max() / parts.mean())
