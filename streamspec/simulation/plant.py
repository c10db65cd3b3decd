"""The simulated service: lanes, preemptive workers on a few cores, order per key, a sink; time is the caller's.

It does what the dispatcher does with segments (messages of at most a batch to the least loaded worker, order
lines, shedding) and answers :meth:`Plant.observe` as the engine would, so that policies and guard run unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamspec.core.control import (
    DEFAULT_TRAFFIC,
    Objective,
    Plan,
)
from streamspec.simulation import kernels
from streamspec.simulation.workload import Workload

TWO_CORES = (0.0, 1.0, 1.85, 1.85, 1.80)
"""Useful seconds per second by busy workers on two cores: the fourth one costs more than it gives."""


@dataclass(frozen=True)
class PlantSetting:
    """The machine and the engine's constants.

    Attributes:
        cores: usable ones.
        workers_ceiling: most workers.
        speed_up: true useful seconds per second by number of busy workers; the last entry stands for more.
        slots: segments that may be in the arena.
        can_wait: sources wait when it is full; otherwise the oldest of the least urgent lane is shed.
        ordered: segments of a key leave in order.
        message_seconds, segment_seconds: cost of a message to a worker, and of each segment in it, beside its work.
        sink_bytes_per_second: 0 is a sink that takes everything at once.
    """

    cores: int = 2
    workers_ceiling: int = 4
    speed_up: tuple[float, ...] = TWO_CORES
    slots: int = 4096
    can_wait: bool = True
    ordered: bool = True
    message_seconds: float = 60e-6
    segment_seconds: float = 5e-6
    sink_bytes_per_second: float = 0.0


@dataclass(frozen=True)
class TrafficClass:
    """Name, objective and urgency of a traffic class; its index is the workload's ``traffic``."""

    name: str = DEFAULT_TRAFFIC
    objective: Objective = field(default_factory=Objective)
    urgency: int = 0


class Plant:
    """One run. ``apply`` a plan, ``advance_to`` a time, ``observe``."""

    def __init__(
        self,
        workload: Workload,
        plan: Plan,
        setting: PlantSetting | None = None,
        traffic: tuple[TrafficClass, ...] = (TrafficClass(),),
    ) -> None:
        self.workload = workload
        self.setting = setting or PlantSetting()
        self.traffic = traffic
        self.speed_up = np.asarray(self.setting.speed_up, dtype=np.float64)
        self.worker_seconds = 0.0
        self._allocate(len(workload))
        self.before, self.following = _order_lines(workload.key)
        self.plan = plan
        self._apply_lanes(plan)
        self._set_intake(plan)

    def _allocate(self, count: int) -> None:
        lanes, workers = kernels.MAX_LANES, kernels.MAX_WORKERS
        self.clock = np.zeros(2)
        self.marks = np.zeros(9, dtype=np.int64)
        place = self.setting
        self.numbers = np.array(
            [place.can_wait, place.ordered, place.slots, place.slots, place.message_seconds * 1e9,
             place.segment_seconds * 1e9,
             1e9 / place.sink_bytes_per_second if place.sink_bytes_per_second else 0.0]
        )  # fmt: skip
        self.state = np.zeros(count, dtype=np.uint8)
        self.lane_of = np.zeros(count, dtype=np.int32)
        self.variant = np.full(count, self.workload.default_variant, dtype=np.int32)
        self.bytes_out = np.zeros(count)
        self.admitted_ns, self.done_ns, self.released_ns, self.finished_ns = np.zeros((4, count))
        self.log = np.zeros(count, dtype=np.int32)
        self.rings = np.zeros((lanes, place.slots + 2), dtype=np.int32)
        self.sink_ring = np.zeros(place.slots + 2, dtype=np.int32)
        self.lane_ints = np.zeros((5, lanes), dtype=np.int64)
        self.cuts = np.full(lanes, np.inf)
        self.worker_ints = np.zeros((4, workers), dtype=np.int64)
        self.worker_ints[kernels.W_LANE] = -1
        self.worker_ints[kernels.W_SEGMENT] = -1
        self.worker_floats = np.zeros((4, workers))
        self.buffers = np.zeros((workers, kernels.BUFFER), dtype=np.int32)
        self.by_busy = np.zeros((2, workers + 1))
        self.lane_useful, self.lane_busy = np.zeros((2, lanes))

    # -- time ---------------------------------------------------------------------------------
    @property
    def now_seconds(self) -> float:
        """Virtual time."""
        return float(self.clock[kernels.NOW]) / 1e9

    @property
    def finished(self) -> bool:
        """Every segment has ended."""
        return int(self.marks[kernels.FINISHED]) >= len(self.workload)

    def advance_to(self, seconds: float) -> None:
        """Let the plant run until then."""
        work = self.workload
        self.worker_seconds += self.plan.workers * max(seconds - self.now_seconds, 0.0)
        price = -1.0 if self.plan.variant_price is None else self.plan.variant_price * 1e9
        kernels.advance(
            seconds * 1e9, price, work.default_variant, self.clock, self.marks, self.numbers, self.speed_up,
            work.arrival_ns, work.length, work.traffic, work.work_ns, work.ratio, work.predicted_ns,
            work.predicted_ratio, self.before, self.following, self.state, self.lane_of, self.variant,
            self.bytes_out, self.admitted_ns, self.done_ns, self.released_ns, self.finished_ns, self.log,
            self.rings, self.sink_ring, self.lane_ints, self.cuts, self.worker_ints, self.worker_floats,
            self.buffers, self.by_busy, self.lane_useful, self.lane_busy,
        )  # fmt: skip

    # -- setting ------------------------------------------------------------------------------
    def apply(self, plan: Plan) -> None:
        """Put a plan in force: what is queued is routed anew, workers change lanes when they have finished what
        they hold."""
        if plan == self.plan:
            return
        lanes_changed = plan.lanes != self.plan.lanes
        self.plan = plan
        self._set_intake(plan)
        if lanes_changed:
            waiting = self._waiting()
            self.lane_ints[kernels.COUNT] = 0
            self._apply_lanes(plan)
            self._requeue(waiting)

    def _set_intake(self, plan: Plan) -> None:
        share = {"open": 1.0, "slow": 0.5, "paused": 0.0}[plan.intake]
        self.numbers[kernels.INTAKE_SLOTS] = self.setting.slots * share

    def _apply_lanes(self, plan: Plan) -> None:
        names = [traffic.name for traffic in self.traffic]
        old_lanes = self.worker_ints[kernels.W_LANE].copy()
        wanted: list[int] = []
        for index, lane in enumerate(plan.lanes):
            self.cuts[index] = lane.up_to_work_ns
            self.lane_ints[kernels.BATCH, index] = min(lane.allocation.batch, 255)
            self.lane_ints[kernels.TRAFFIC, index] = names.index(lane.traffic)
            self.lane_ints[kernels.URGENCY, index] = lane.urgency
            wanted += [index] * min(lane.allocation.workers, kernels.MAX_WORKERS - len(wanted))
        self.marks[kernels.LANES] = len(plan.lanes)
        self.worker_ints[kernels.W_LANE] = _assign(old_lanes, wanted)
        nice = np.array([lane.allocation.nice for lane in plan.lanes])
        placed = self.worker_ints[kernels.W_LANE]
        self.worker_floats[kernels.WEIGHT] = 1.25 ** -nice[np.maximum(placed, 0)].astype(np.float64)
        holds = (self.worker_ints[kernels.W_SEGMENT] >= 0) | (self.worker_ints[kernels.W_COUNT] > 0)
        used = np.flatnonzero((placed >= 0) | holds)
        self.marks[kernels.WORKERS] = int(used[-1]) + 1 if len(used) else 0

    def _waiting(self) -> npt.NDArray[np.int32]:
        capacity = self.rings.shape[1]
        parts = [
            self.rings[
                lane, (self.lane_ints[kernels.HEAD, lane] + np.arange(self.lane_ints[kernels.COUNT, lane])) % capacity
            ]
            for lane in range(int(self.marks[kernels.LANES]))
        ]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int32)

    def _requeue(self, waiting: npt.NDArray[np.int32]) -> None:
        lanes, capacity = int(self.marks[kernels.LANES]), self.rings.shape[1]
        for segment in waiting.tolist():
            predicted = self.workload.predicted_ns[segment, self.variant[segment]]
            lane = kernels.route(segment, self.workload.traffic[segment], predicted, self.lane_ints, self.cuts, lanes)
            self.lane_of[segment] = lane
            place = (self.lane_ints[kernels.HEAD, lane] + self.lane_ints[kernels.COUNT, lane]) % capacity
            self.rings[lane, place] = segment
            self.lane_ints[kernels.COUNT, lane] += 1
        for lane in range(lanes):
            kernels.pump(
                lane, self.rings, self.lane_ints, self.worker_ints, self.worker_floats, self.buffers, self.state,
                self.workload.work_ns, self.variant, self.numbers, int(self.marks[kernels.WORKERS]),
            )  # fmt: skip

    def queue_of(self, lane: int) -> npt.NDArray[np.int32]:
        """Segments that wait in a lane, the first first."""
        start, count = self.lane_ints[kernels.HEAD, lane], self.lane_ints[kernels.COUNT, lane]
        queue: npt.NDArray[np.int32] = self.rings[lane, (start + np.arange(count)) % self.rings.shape[1]]
        return queue


def _assign(old: npt.NDArray[np.int64], wanted: list[int]) -> npt.NDArray[np.int64]:
    """A lane for each worker, moving as few as possible."""
    placed = np.full(len(old), -1, dtype=np.int64)
    left = list(wanted)
    for worker, lane in enumerate(old.tolist()):
        if lane in left:
            placed[worker] = lane
            left.remove(lane)
    for worker in np.flatnonzero(placed < 0)[: len(left)].tolist():
        placed[worker] = left.pop(0)
    return placed


def _order_lines(key: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For each segment the one before it and the one behind it with the same key, -1 where there is none."""
    count = len(key)
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    before, following = np.full((2, count), -1, dtype=np.int32)
    before[order[1:][same]] = order[:-1][same]
    following[order[:-1][same]] = order[1:][same]
    return before, following
