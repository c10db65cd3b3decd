"""Caches inside stages: what was decided for a lane, told to its workers; and how often they find something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from streamspec.actuators.cache import Cache, StageOfLane
from streamspec.assembly.parts import Complaints, Level
from streamspec.core.actuation import Readiness
from streamspec.core.control import CacheState, LanePlan, Plan
from streamspec.core.interfaces import Clock
from streamspec.core.units import format_bytes
from streamspec.telemetry.state import KnobStatus

if TYPE_CHECKING:
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.engine.fleet import Worker
    from streamspec.engine.lane import Lane

_log = structlog.get_logger("streamspec.caches")

RESOURCE = "cache_bytes"
EVENTS = ("cache_hits", "cache_misses", "cache_evictions")
"""What stages with a cache count."""
COUNTED_SECONDS = 0.5
"""Least time that rates are taken over."""

Counted = tuple[int, int, int]


class Caches:
    """Implements ``Part``. ``Allocation.cache_bytes`` is what a lane's workers have together; 0: each of them has what
    its stages declare."""

    name = "cache"
    wanted = True
    told: Level = "warning"

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._actuator = Cache(self._resize, self._sizes)
        self._complaints = Complaints(self.name)
        self._declared: dict[str, int] = {}
        self._counted: dict[int, Counted] = {}
        self._counted_ns = 0
        self.states: tuple[CacheState, ...] = ()

    async def open(self) -> Readiness:
        """See ``Part``."""
        return await self._actuator.probe()

    async def apply(self, plan: Plan) -> None:
        """See ``Part``."""
        grants = self._dispatcher.grants
        stages = grants.stages_with(RESOURCE)
        for stage in stages:
            self._declared.setdefault(stage, int(max(grants.promised(stage, RESOURCE).values())))
        desired = {}
        for lane in self._dispatcher.lanes:
            planned = plan.lane(lane.name)
            for stage in stages if planned is not None and lane.workers else ():
                size = self._size(stage, planned.allocation.cache_bytes, len(lane.workers)) if planned else 0
                promised = self._promised(lane, stage)
                if any(before != size for before in promised.values()):
                    desired[lane.name, stage] = size
        await self._tell(desired)
        self._count()

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``: of the lane's workers together."""
        found = next((known for known in self._dispatcher.lanes if known.name == lane.name), None)
        stages = self._dispatcher.grants.stages_with(RESOURCE)
        if found is None or not stages:
            return ()
        promised = sum(sum(self._promised(found, stage).values()) for stage in stages)
        held = sum(sum(self._sizes(lane.name, stage).values()) for stage in stages)
        return (KnobStatus(RESOURCE, "bytes", float(lane.allocation.cache_bytes) or promised, promised, held),)

    async def close(self) -> None:
        """See ``Part``."""
        await self._actuator.restore()

    # -- parts ----------------------------------------------------------------------------------
    def _size(self, stage: str, together: int, workers: int) -> int:
        """Bytes of one worker for one stage, which share a lane's bytes as their stages declare."""
        if not together:
            return self._declared[stage]
        share = self._declared[stage] / max(sum(self._declared.values()), 1)
        return int(together * share / workers)

    async def _tell(self, desired: Mapping[StageOfLane, int]) -> None:
        if not desired:
            return
        applied = await self._actuator.apply(desired)
        for (lane, stage), size in desired.items():
            if (lane, stage) not in applied.refused:
                told = f"{format_bytes(size)} per worker"
                _log.info("cache resized", lane=lane, stage=stage, size=told, always=True)
        self._complaints.hear(applied.refused)

    def _resize(self, lane: str, stage: str, size: int) -> Mapping[int, str]:
        return self._dispatcher.grants.resize_stage(stage, RESOURCE, size, "decided by control", self._indices(lane))

    def _sizes(self, lane: str, stage: str) -> Mapping[int, float]:
        indices = self._indices(lane)
        granted = self._dispatcher.grants.granted(stage, RESOURCE)
        return {index: size for index, size in granted.items() if index in indices}

    def _promised(self, lane: Lane, stage: str) -> dict[int, float]:
        indices = {worker.index for worker in lane.workers}
        promised = self._dispatcher.grants.promised(stage, RESOURCE)
        return {index: size for index, size in promised.items() if index in indices}

    def _indices(self, lane: str) -> set[int]:
        return {worker.index for known in self._dispatcher.lanes if known.name == lane for worker in known.workers}

    def _count(self) -> None:
        """Rates since the last time, each worker's for the lane that it works for now."""
        now_ns, before = self._clock.monotonic_ns(), self._counted
        seconds = (now_ns - self._counted_ns) / 1e9
        if seconds < COUNTED_SECONDS:
            return
        self._counted, self._counted_ns = {w.index: _events(w) for w in self._dispatcher.fleet.workers.values()}, now_ns
        stages = self._dispatcher.grants.stages_with(RESOURCE)
        states = []
        for lane in self._dispatcher.lanes if stages else ():
            new = [(self._counted[w.index], before.get(w.index, self._counted[w.index])) for w in lane.workers]
            hits, misses, evictions = (sum(now[i] - was[i] for now, was in new) / seconds for i in range(3))
            held = sum(sum(self._sizes(lane.name, stage).values()) for stage in stages)
            states.append(CacheState(lane.name, int(held), 0, hits, misses, evictions))
        self.states = tuple(states)


def _events(worker: Worker) -> Counted:
    hits, misses, evictions = (sum(tally[event] for tally in worker.stage_counts.values()) for event in EVENTS)
    return hits, misses, evictions
