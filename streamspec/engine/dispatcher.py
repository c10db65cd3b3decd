"""The dispatcher: moves slots from sources to lanes to workers to delivery, a batch at a time.

It decides nothing about resources: lanes have the allocation that :meth:`Dispatcher.apply` was given.
Every slot is in exactly one place: free, open at a source, in a lane queue, held by a worker, waiting in
its order line, or held by sinks.
"""

from __future__ import annotations

import asyncio
import math
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from streamspec.core.clock import SystemClock
from streamspec.core.errors import StreamspecError
from streamspec.core.interfaces import AcknowledgedSource, Bytes, Clock, Reducer, Rows, Slots, Source
from streamspec.core.prediction import PREDICTION
from streamspec.core.resources import Allocation, Pool
from streamspec.core.segment import DONE, ERROR_KINDS, FAILED, QUEUED, RUNNING, SHED
from streamspec.core.tally import Tally
from streamspec.engine import kernels
from streamspec.engine.accounts import Accounts
from streamspec.engine.arena import Arena
from streamspec.engine.deliveries import DeliveryView
from streamspec.engine.delivery import Delivery
from streamspec.engine.fleet import ChainSpec, Fleet, Worker
from streamspec.engine.foresight import Foresight
from streamspec.engine.foresight_kernels import LOOK
from streamspec.engine.grants import Grants
from streamspec.engine.intake import EngineIntake, IntakeLevel, Room
from streamspec.engine.lane import Lane
from streamspec.engine.observer import Observer
from streamspec.engine.order import OrderLines
from streamspec.engine.router import LaneRule, RuleRouter
from streamspec.engine.staffing import PlainStaffing, Staffing
from streamspec.engine.warm import warm_kernels

_log = structlog.get_logger("streamspec.dispatcher")

TICK_SECONDS = 0.05
SHORT_RATIO = 0.25
"""Share of free slots at which the arena is short."""


@dataclass(frozen=True)
class LaneSpec:
    """A lane as wanted: its name, allocation, urgency, index of its traffic class and the rule that fills it."""

    name: str
    allocation: Allocation = field(default_factory=Allocation)
    urgency: int = 0
    traffic: int = 0
    rule: LaneRule = field(default_factory=lambda: LaneRule(lane=0))


@dataclass(frozen=True)
class Limits:
    """When a segment is given up."""

    retries: int = 2
    max_deaths: int = 2
    time_limit_seconds: float = 30.0


class Dispatcher:
    """Owns arena, lanes, fleet and delivery of one service. Lives in one event loop.

    Args:
        arena: created by the caller, closed by :meth:`close`.
        lanes: at least one.
        chain: what workers build.
        reducers: by stage index.
        ordered: keep order per key at delivery.
        limits: retries, deaths, time.
        failed: called when the service cannot go on.
        foresight: looks into segments and predicts their cost, on the same arena; None: nothing is predicted.
        observer: counts what arrives and finishes, for the controller.
        pools: what stages may be granted, by resource; None: see ``grants.default_pools``.
    """

    def __init__(
        self,
        arena: Arena,
        lanes: Sequence[LaneSpec],
        chain: ChainSpec,
        *,
        reducers: Mapping[int, Reducer] | None = None,
        ordered: bool = True,
        limits: Limits | None = None,
        failed: Callable[[StreamspecError], None],
        clock: Clock | None = None,
        foresight: Foresight | None = None,
        observer: Observer | None = None,
        pools: Mapping[str, Pool] | None = None,
    ) -> None:
        self.arena = arena
        self.clock: Clock = clock or SystemClock()
        self.limits = limits or Limits()
        self.foresight: Foresight | None = None
        self.predictions: Rows = np.zeros(0, dtype=PREDICTION)
        self._looks: Rows = np.zeros(0, dtype=LOOK)
        self.room = Room(arena.slots)
        self.source_names: list[str] = []
        self._sources: list[Source | None] = []
        self._acknowledged: dict[int, AcknowledgedSource] = {}
        self._may_shed: Bytes = np.zeros(1024, dtype=np.uint8)
        self._spilled: dict[int, mmap.mmap] = {}
        self._order = OrderLines(arena.headers, ordered=ordered)
        self._held = np.empty(arena.slots, dtype=np.int32)
        self._next_segment_id = 1
        self._paused = False
        self.accounts = Accounts([spec.name for spec in lanes])
        self.foresee(foresight)
        self.stage_counts: dict[str, Tally] = {}
        self.grants = Grants(pools)
        self.delivery = Delivery(
            DeliveryView(arena, self.source_names, self._spilled_output), reducers or {}, self._finished, self.clock
        )
        self.observer: Observer | None = None
        self.staffing: Staffing = PlainStaffing()
        self._specs: Sequence[LaneSpec] = lanes
        self.lanes: list[Lane] = []
        self.set_lanes(lanes)
        if observer is not None:
            self.watch(observer)
        self.fleet = Fleet(arena, chain, self)
        self.fleet_failed = failed
        self._tick_timer: asyncio.TimerHandle | None = None
        self._all_finished = asyncio.Event()
        self._ticked = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # -- life ---------------------------------------------------------------------------------
    async def start(self, workers: int) -> None:
        """Start the fleet and return when it is warm."""
        self.fleet.resize(workers)
        warm_kernels()  # while the workers warm up
        self._tick_timer = self._loop.call_later(TICK_SECONDS, self._tick)
        await self.fleet.wait_ready()

    async def drain(self) -> None:
        """Return when every committed segment is finished and sinks have what reducers held."""
        while self.accounts.unfinished_segments:
            self._all_finished.clear()
            await self._all_finished.wait()
        self.delivery.collect(final=True)
        await self.delivery.idle()

    async def close(self) -> None:
        """Stop workers and sinks and unmap the arena."""
        self._paused = True
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        await self.fleet.close()
        for runner in self.delivery.runners():
            await runner.close()
        for mapping in self._spilled.values():
            _unmap(mapping)
        self.arena.close()

    def abandon_unfinished(self, reason: str) -> int:
        """Count what is not finished as shed; returns how many. Only before :meth:`close`."""
        left = self.accounts.unfinished_segments
        if left:
            self.accounts.vector[kernels.SHED_SEGMENTS] += left
            self.accounts.shed.add(reason, left)
        return left

    # -- sources ------------------------------------------------------------------------------
    def add_source(self, name: str, source: Source) -> EngineIntake:
        """Register a source; the intake is for its ``open``."""
        index = len(self._sources)
        self.source_names.append(name)
        self._sources.append(source)
        if index >= len(self._may_shed):
            self._may_shed = np.concatenate([self._may_shed, np.zeros_like(self._may_shed)])
        if isinstance(source, AcknowledgedSource):
            self._acknowledged[index] = source
        self._may_shed[index] = not source.can_wait
        self.room.keep_reserve(bool(self._may_shed.any()))
        return EngineIntake(self, index, can_wait=source.can_wait)

    async def source_finished(self, source: Source) -> None:
        """Return when no segment of the source is under way."""
        index = self._sources.index(source)
        headers = self.arena.headers
        while bool(((headers["source"] == index) & (headers["state"] >= QUEUED)).any()):
            await self._tick_passed()

    def remove_source(self, source: Source) -> None:
        """Forget a source whose segments are finished."""
        index = self._sources.index(source)
        self._sources[index] = None
        self._acknowledged.pop(index, None)
        self._may_shed[index] = 0
        self.room.keep_reserve(bool(self._may_shed.any()))

    def commit(self, source: int, slots: Slots) -> None:
        """Take in full segments of a source."""
        if not len(slots):
            return
        self._register(source, slots)
        slots = self._shed_hogs(slots) if self._may_shed[source] else slots
        for lane in self.lanes:
            lane.push(slots)
        self._pump_all()

    def reject(self, source: int, slot: int, error: str) -> None:
        """Take in a segment that no stage shall see; it is dead-lettered in its turn."""
        slots = np.array([slot], dtype=np.int32)
        self._register(source, slots)
        row = self.arena.headers[slot]
        row["started_ns"] = row["queued_ns"]
        row["useful_ns"] = 0
        self._fail(slot, "unreadable", error)
        self._completed(slots)

    def _register(self, source: int, slots: Slots) -> None:
        """Number, profile and route what comes in."""
        headers = self.arena.headers
        self._order.commit(slots, source, self._next_segment_id, self.clock.monotonic_ns(), self.accounts.vector)
        self._next_segment_id += len(slots)
        if self.foresight is not None:
            self.foresight.look(slots)
            self.foresight.expect(slots)
        self.router.route(headers, slots)
        if self.observer is not None:
            self.observer.arrived(headers, slots, self.predictions, self._looks, self.clock.monotonic_ns())

    def shed_one(self) -> bool:
        """Drop the oldest waiting segment of the least urgent lane, if its source cannot wait."""
        for lane in sorted(self.lanes, key=lambda lane: -lane.urgency):
            slot = lane.shed_oldest(self._may_shed)
            if slot >= 0:
                self._shed(slot, "arena_full")
                return True
        return False

    def _shed(self, slot: int, reason: str) -> None:
        self.accounts.shed.add(reason)
        released = self._order.remove(slot)
        if len(released):
            self.delivery.deliver(released)
        self._finished(np.array([slot], dtype=np.int32))

    def _shed_hogs(self, slots: Slots) -> Slots:
        """While the arena is short, drop what arrives of a traffic class that holds more than its part of it: one
        whose results leave slowly would starve the others. Returns what stays."""
        traffic, headers = np.asarray(self.traffic_of_lanes()), self.arena.headers
        classes = int(traffic.max()) + 1
        if classes < 2 or self.arena.free_slots > SHORT_RATIO * self.arena.slots:
            return slots
        held = np.bincount(traffic[headers["lane"][headers["state"] >= QUEUED]], minlength=classes)
        beyond = (held > self.arena.slots // classes)[traffic[headers["lane"][slots]]]
        for slot in slots[beyond].tolist():
            headers["state"][slot] = SHED
            self._shed(slot, "class_full")
        staying: Slots = slots[~beyond]
        return staying

    # -- observing ----------------------------------------------------------------------------
    def foresee(self, foresight: Foresight | None) -> None:
        """Look into segments with another foresight, or not at all; lanes follow it from :meth:`set_lanes` on. What
        is under way is not learned from."""
        self.foresight = self.accounts.foresight = foresight
        slots = self.arena.slots
        self.predictions = np.zeros(slots, dtype=PREDICTION) if foresight is None else foresight.predictions
        self._looks = np.zeros(slots, dtype=LOOK) if foresight is None else foresight.looks

    def watch(self, observer: Observer) -> None:
        """Tell an observer what arrives and finishes, in place of the one before."""
        if self.observer is not None:
            self.unwatch(self.observer)
        observer.warm()
        observer.set_lanes([spec.traffic for spec in self._specs], self.accounts.histograms)
        self.observer = observer
        self.accounts.listeners.append(observer.finished)

    def unwatch(self, observer: Observer) -> None:
        """Tell it nothing more."""
        if self.observer is observer:
            self.accounts.listeners.remove(observer.finished)
            self.observer = None

    # -- lanes --------------------------------------------------------------------------------
    def set_lanes(self, specs: Sequence[LaneSpec]) -> None:
        """Replace all lanes; what is queued is routed anew, workers are given out anew."""
        self._specs = specs
        old = self.lanes
        waiting = np.concatenate([lane.pop_everything() for lane in old]) if old else self._held[:0]
        self.lanes = [
            Lane(spec.name, index, spec.allocation, urgency=spec.urgency, headers=self.arena.headers)
            for index, spec in enumerate(specs)
        ]
        self.accounts.set_lanes([spec.name for spec in specs])
        if self.observer is not None:
            self.observer.set_lanes([spec.traffic for spec in specs], self.accounts.histograms)
        self.router = RuleRouter([spec.rule for spec in specs], self._key_of, self._looks)
        if old:
            waiting = waiting[np.argsort(self.arena.headers["segment_id"][waiting], kind="stable")]
            self._reroute_held()
            self.router.route(self.arena.headers, waiting)
            for lane in self.lanes:
                lane.push(waiting)
            self._staff()

    def traffic_of_lanes(self) -> list[int]:
        """Index of the traffic class by index of the lane."""
        return [spec.traffic for spec in self._specs]

    def apply(self, name: str, allocation: Allocation) -> None:
        """Give a lane another allocation while it runs. Raises KeyError for an unknown lane."""
        self.apply_all({name: allocation})

    def apply_all(self, allocations: Mapping[str, Allocation]) -> None:
        """Give several lanes another allocation at once. Raises KeyError for an unknown lane."""
        by_name = {lane.name: lane for lane in self.lanes}
        for name, allocation in allocations.items():
            by_name[name].allocation = allocation
        self._staff()

    def cut(self, name: str, max_work_ns: float) -> None:
        """Let a lane take segments of up to that predicted cost. What is queued stays where it is."""
        self.router.cut(next(lane.index for lane in self.lanes if lane.name == name), max_work_ns)

    def set_intake(self, level: IntakeLevel) -> None:
        """``slow``: sources that can wait may fill a quarter of the arena; ``paused``: they wait."""
        self.room.set_level(level)
        self.room.offer(self.arena.free_slots)

    def _staff(self) -> None:
        """Workers for all lanes; the fleet grows when there are too few."""
        needed = sum(lane.allocation.workers for lane in self.lanes)
        if needed > self.fleet.size:
            self.fleet.resize(needed)
        self.assign_workers()

    def assign_workers(self) -> None:
        """Give ready workers to lanes, moving as few as possible; the rest stand by."""
        ready = self.fleet.present()
        for lane in self.lanes:
            staying = [w for w in ready if w.lane == lane.index][: lane.allocation.workers]
            lane.workers = staying
        placed = {w.index for lane in self.lanes for w in lane.workers}
        spare = [w for w in ready if w.index not in placed]
        for lane in sorted(self.lanes, key=lambda lane: lane.urgency):
            while spare and len(lane.workers) < lane.allocation.workers:
                nice = lane.allocation.nice
                worker = min(
                    spare, key=lambda w: (not self.staffing.can_become(w, nice), w.granted_nice != nice, w.index)
                )
                spare.remove(worker)
                lane.workers.append(worker)
        for worker in spare:
            worker.lane = -1
        for lane in self.lanes:
            for worker in lane.workers:
                worker.lane = lane.index
            allocation = lane.allocation
            self.accounts.allocations[lane.index] = (len(lane.workers), allocation.nice, allocation.batch)
        self.staffing.staffed(self.lanes)
        self._pump_all()

    def pause(self) -> None:
        """Give workers nothing new until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._paused = False
        self._pump_all()

    async def replace_chain(self, chain: ChainSpec, reducers: Mapping[int, Reducer]) -> None:
        """Exchange the stage chain while the stream runs. New workers are warmed first; then what the old
        ones hold is finished, so that no segment sees parts of both. Raises what keeps the new chain
        from being built; then everything stays as it was."""
        await self.fleet.warm(chain)
        self._paused = True
        try:
            while any(w.in_flight for w in self.fleet.present()):
                await self._tick_passed()
            self.fleet.switch()
            self.delivery.replace_reducers(reducers)
        finally:
            self._paused = False
            self.assign_workers()

    def _reroute_held(self) -> None:
        # Also what is done and waits for its key or for sinks: its lane must exist when it is finished.
        held = np.flatnonzero(self.arena.headers["state"] > QUEUED).astype(np.int32)
        if len(held):
            self.router.route(self.arena.headers, held)

    def _key_of(self, slot: int) -> bytes:
        return self.arena.meta(slot)[: int(self.arena.headers["key_bytes"][slot])].tobytes()

    # -- workers ------------------------------------------------------------------------------
    def _pump_all(self) -> None:
        for lane in self.lanes:
            if len(lane):
                self._pump(lane)

    def _pump(self, lane: Lane) -> None:
        if self._paused:
            return
        batch, foresight = lane.allocation.batch, self.foresight
        batch_ns = math.inf if foresight is None else foresight.batch_ns(lane.index)
        now_ns = self.clock.monotonic_ns()
        while len(lane) and lane.workers:
            worker = min(lane.workers, key=_load)
            if worker.in_flight > batch or worker.promised_ns > batch_ns:
                return
            count, work_ns = min(batch, -(-len(lane) // len(lane.workers))), 0.0
            if foresight is not None:
                count, work_ns = lane.plan_batch(foresight, min(count, 256), now_ns)
            slots = lane.pop(count, worker.index, now_ns)
            if not worker.send(slots.data):
                self._take_back(lane, slots)
                return
            worker.in_flight += len(slots)
            worker.promised_ns += work_ns

    def _take_back(self, lane: Lane, slots: Slots) -> None:
        headers = self.arena.headers
        headers["state"][slots] = QUEUED
        headers["holder"][slots] = 0
        lane.push_front(slots)

    def workers_changed(self) -> None:
        """See ``FleetEvents``."""
        self.assign_workers()

    def worker_batch(self, worker: Worker, message: bytes) -> None:
        """See ``FleetEvents``."""
        slots = np.frombuffer(message, dtype=np.int32)
        worker.promised_ns *= 1.0 - len(slots) / max(worker.in_flight, 1)
        worker.in_flight -= len(slots)
        self._completed(slots)
        if worker.lane >= 0:
            lane = self.lanes[worker.lane]
            if len(lane):
                self._pump(lane)

    def _completed(self, slots: Slots) -> None:
        ready, again = self._order.complete(slots, self.limits.retries)
        if len(again):
            self.accounts.retries += len(again)
            self._requeue(again)
        if len(ready):
            self.delivery.deliver(ready)

    def _requeue(self, slots: Slots) -> None:
        for lane in self.lanes:
            lane.push_front(slots)
        self._pump_all()

    def worker_spill(self, slot: int, fd: int, size_bytes: int) -> None:
        """See ``FleetEvents``."""
        try:
            self._spilled[slot] = mmap.mmap(fd, size_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def _spilled_output(self, slot: int) -> memoryview | None:
        mapping = self._spilled.get(slot) if self._spilled else None
        return None if mapping is None else memoryview(mapping)

    def worker_counts(self, worker: Worker, counts: dict[str, dict[str, int]]) -> None:
        """See ``FleetEvents``."""
        for stage, reasons in counts.items():
            self.stage_counts.setdefault(stage, Tally()).merge(reasons)
            worker.stage_counts.setdefault(stage, Tally()).merge(reasons)

    def worker_resources(self, worker: Worker, content: dict[str, Any]) -> None:
        """See ``FleetEvents``."""
        self.grants.told(worker, content)

    def worker_gone(self, worker: Worker, reason: str) -> None:
        """See ``FleetEvents``."""
        self.grants.holder_gone(worker.index)
        count = kernels.held_by(self.arena.headers, worker.index, self._held)
        again: list[int] = []
        finished: list[int] = []
        for slot in self._held[:count].tolist():
            (finished if self._survives(slot, worker, reason) else again).append(slot)
        if finished:
            self._completed(np.array(finished, dtype=np.int32))
        self.assign_workers()
        if again:
            self.arena.headers["state"][again] = QUEUED
            self.arena.headers["holder"][again] = 0
            self._requeue(np.array(again, dtype=np.int32))

    def _survives(self, slot: int, worker: Worker, reason: str) -> bool:
        """True when the slot of a dead worker has an outcome: it was done, or it killed too often."""
        row = self.arena.headers[slot]
        state = row["state"]
        if state in (DONE, FAILED) and (not row["spilled"] or slot in self._spilled):
            return True
        if state != RUNNING:
            return False
        row["deaths"] += 1
        _log.warning(
            "worker died in a segment",
            worker=worker.index,
            segment=int(row["segment_id"]),
            deaths=int(row["deaths"]),
            reason=reason,
        )
        if row["deaths"] < self.limits.max_deaths:
            return False
        kind = "time_limit" if worker.killed_for else "worker_died"
        self._fail(slot, kind, f"{row['deaths']} workers died in this segment; the last {reason}")
        return True

    def _fail(self, slot: int, kind: str, text: str) -> None:
        row = self.arena.headers[slot]
        error = text.encode()
        self.arena.output(slot)[: len(error)] = np.frombuffer(error, dtype=np.uint8)
        row["payload_offset"] = row["payload_in_output"] = row["records_bytes"] = row["delta_bytes"] = 0
        row["payload_bytes"] = row["length"]
        row["error_bytes"] = len(error)
        row["error_kind"] = ERROR_KINDS.index(kind)
        row["finished_ns"] = self.clock.monotonic_ns()
        row["state"] = FAILED

    # -- endings ------------------------------------------------------------------------------
    def _finished(self, slots: Slots) -> None:
        headers = self.arena.headers
        self.accounts.finish(headers, slots, self.clock.monotonic_ns())
        self._acknowledge(slots)
        if self._spilled:
            for slot in slots.tolist():
                mapping = self._spilled.pop(slot, None)
                if mapping is not None:
                    _unmap(mapping)
        self.arena.release_many(slots)
        self.room.offer(self.arena.free_slots)
        if not self.accounts.unfinished_segments:
            self._all_finished.set()

    def _acknowledge(self, slots: Slots) -> None:
        for index, source in self._acknowledged.items():
            mine = slots[self.arena.headers["source"][slots] == index]
            if len(mine):
                source.acknowledge(self.arena.headers["token"][mine])

    async def _tick_passed(self) -> None:
        self._ticked.clear()
        await self._ticked.wait()

    def _tick(self) -> None:
        self._ticked.set()
        self.room.offer(self.arena.free_slots, few=True)
        self._tick_timer = self._loop.call_later(TICK_SECONDS, self._tick)
        deadline_ns = self.clock.monotonic_ns() - round(self.limits.time_limit_seconds * 1e9)
        count = kernels.overdue(self.arena.headers, deadline_ns, self._held)
        for slot in self._held[:count].tolist():
            worker = self.fleet.workers.get(int(self.arena.headers["holder"][slot]))
            if worker is not None and not worker.killed_for:
                self.fleet.kill(worker, f"stopped after the time limit of {self.limits.time_limit_seconds:g} s")
        self.delivery.collect(final=False)
        self._pump_all()


def _load(worker: Worker) -> tuple[float, int]:
    return worker.promised_ns, worker.in_flight


def _unmap(mapping: mmap.mmap) -> None:
    try:
        mapping.close()
    except BufferError:  # a sink still has a view; the mapping goes with it
        pass
