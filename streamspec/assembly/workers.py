"""Parts that act on worker processes: nice level and cores, groups of cgroup v2, ways of the last-level cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import structlog

from streamspec.actuators.affinity import Affinity
from streamspec.actuators.cgroup import Cgroup, LaneGroup
from streamspec.actuators.priority import Priority
from streamspec.actuators.resctrl import CacheWays, Resctrl
from streamspec.assembly.parts import Complaints, Level
from streamspec.assembly.staffing import HostStaffing
from streamspec.core.actuation import Readiness
from streamspec.core.control import LanePlan, Plan
from streamspec.engine.staffing import PlainStaffing
from streamspec.telemetry.state import KnobStatus

if TYPE_CHECKING:
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.engine.fleet import Worker
    from streamspec.engine.lane import Lane

_log = structlog.get_logger("streamspec.actuators")

PATIENCE_SECONDS = 30.0
"""How long a worker may take to start in another's place."""
FULL_WEIGHT = 100
"""``cpu.weight`` of everyone else, and of one worker at nice 0."""


class Levels:
    """Implements ``Part`` for nice levels. The staffing sets them; where a worker cannot come back to the level that
    its lane needs, this one starts another in its place, one at a time."""

    name = "priority"
    wanted = True
    told: Level = "warning"

    def __init__(self, priority: Priority, staffing: HostStaffing, dispatcher: Dispatcher) -> None:
        self._priority = priority
        self._staffing = staffing
        self._dispatcher = dispatcher
        self._extra_until_ns = 0

    async def open(self) -> Readiness:
        """See ``Part``."""
        return await self._priority.probe()

    async def apply(self, plan: Plan) -> None:
        """See ``Part``: one step of a replacement. The other worker is started first, so that the lane lacks none."""
        fleet, stuck = self._dispatcher.fleet, self._stuck()
        now_ns = self._dispatcher.clock.monotonic_ns()
        if stuck is None:
            if self._extra_until_ns:
                self._extra_until_ns = 0
                fleet.resize(fleet.size - 1)
            return
        worker, nice = stuck
        if any(other.lane < 0 and self._staffing.can_become(other, nice) for other in fleet.present()):
            if self._extra_until_ns:
                self._extra_until_ns, fleet.size = 0, fleet.size - 1
            _log.info("worker exchanged", worker=worker.index, reason=f"it cannot come back to nice {nice}")
            fleet.retire(worker)
            fleet.resize(fleet.size)
        elif now_ns >= self._extra_until_ns:
            fleet.resize(fleet.size + (not self._extra_until_ns))
            self._extra_until_ns = now_ns + round(PATIENCE_SECONDS * 1e9)

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``: the engine shows them."""
        return ()

    async def close(self) -> None:
        """See ``Part``."""
        await self._priority.restore()

    def _stuck(self) -> tuple[Worker, int] | None:
        """A worker of the most urgent lane that has one, and the level that it cannot come back to."""
        for lane in sorted(self._dispatcher.lanes, key=lambda lane: lane.urgency):
            nice = lane.allocation.nice
            for worker in lane.workers:
                if worker.granted_nice > nice and not self._staffing.can_become(worker, nice):
                    return worker, nice
        return None


class Cores:
    """Implements ``Part`` for cores, and has the staffing read back."""

    name = "affinity"
    wanted = True
    told: Level = "warning"

    def __init__(self, affinity: Affinity, staffing: HostStaffing, dispatcher: Dispatcher) -> None:
        self._affinity = affinity
        self._staffing = staffing
        self._dispatcher = dispatcher

    async def open(self) -> Readiness:
        """See ``Part``. From here on the staffing is the host's."""
        ready = await self._affinity.probe()
        self._dispatcher.staffing = self._staffing
        return ready

    async def apply(self, plan: Plan) -> None:
        """See ``Part``."""
        self._staffing.read_back(self._dispatcher.lanes)

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``."""
        found = _lane_of(self._dispatcher, lane.name)
        workers = [] if found is None else found.workers
        if not workers:
            return ()
        usable = self._affinity.usable
        decided = {core for worker in workers for core in self._staffing.decided.get(worker.index) or usable}
        granted = {core for worker in workers for core in worker.granted_cores or usable}
        observed = {core for worker in workers for core in self._staffing.observed.get(worker.index, ())}
        return (KnobStatus("cores", "cores", len(decided), len(granted), len(observed) or None),)

    async def close(self) -> None:
        """See ``Part``."""
        self._dispatcher.staffing = PlainStaffing()
        await self._affinity.restore()
        for worker in self._dispatcher.fleet.workers.values():
            worker.granted_cores = frozenset()


class Groups:
    """Implements ``Part`` for groups of cgroup v2: weight by workers and nice level, and the cores of the lane.

    Args:
        acting: whether the host may be changed now.
    """

    name = "cgroup"
    wanted = False
    told: Level = "info"

    def __init__(
        self, cgroup: Cgroup, staffing: HostStaffing, dispatcher: Dispatcher, acting: Callable[[], bool]
    ) -> None:
        self._cgroup = cgroup
        self._staffing = staffing
        self._dispatcher = dispatcher
        self._acting = acting
        self._active = False
        self._complaints = Complaints(self.name)
        self._applied: dict[str, LaneGroup] = {}

    async def open(self) -> Readiness:
        """See ``Part``."""
        ready = await self._cgroup.probe()
        self._active = ready.active
        return ready

    async def apply(self, plan: Plan) -> None:
        """See ``Part``."""
        if not self._active:
            return
        if not self._acting():
            await self.close()
            return
        desired = {lane.name: self._group(lane) for lane in self._dispatcher.lanes if lane.workers}
        if desired != self._applied:
            applied = await self._cgroup.apply(desired)
            self._applied = {} if applied.refused else desired
            self._complaints.hear(applied.refused)

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``: nice levels and cores, which the groups enforce, are shown already."""
        return ()

    async def close(self) -> None:
        """See ``Part``."""
        self._applied = {}
        await self._cgroup.restore()

    def _group(self, lane: Lane) -> LaneGroup:
        parts = [self._staffing.decided.get(worker.index, frozenset()) for worker in lane.workers]
        cores = frozenset(core for part in parts for core in part) if all(parts) else frozenset()
        return LaneGroup(
            frozenset(worker.pid for worker in lane.workers), weight_of(len(lane.workers), lane.allocation.nice), cores
        )


def weight_of(workers: int, nice: int) -> int:
    """``cpu.weight`` of a lane: a nice level is a quarter of the kernel's weight, and each worker counts."""
    return min(max(round(workers * FULL_WEIGHT / 1.25**nice), 1), 10_000)


class Ways:
    """Implements ``Part`` for ways of the last-level cache, in proportion to the workers of lanes.

    Args:
        asked: by the configuration; otherwise what a killed service left is removed and nothing else.
        acting: whether the host may be changed now.
    """

    name = "resctrl"

    def __init__(self, resctrl: Resctrl, dispatcher: Dispatcher, acting: Callable[[], bool], *, asked: bool) -> None:
        self.wanted = asked
        self.told: Level = "warning" if asked else "debug"
        self._resctrl = resctrl
        self._dispatcher = dispatcher
        self._acting = acting
        self._active = False
        self._complaints = Complaints(self.name)
        self._applied: dict[str, CacheWays] = {}

    async def open(self) -> Readiness:
        """See ``Part``."""
        ready = await self._resctrl.probe()
        self._active = ready.active and self.wanted
        if ready.active and not self.wanted:
            return Readiness(self.name, False, "", "not asked for", "control.cache_ways: true")
        return ready

    async def apply(self, plan: Plan) -> None:
        """See ``Part``."""
        if not self._active:
            return
        desired = self._ways() if self._acting() else {}
        if desired != self._applied:
            applied = await self._resctrl.apply(desired)
            self._applied = {} if applied.refused else desired
            self._complaints.hear(applied.refused)

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``."""
        setting = self._applied.get(lane.name)
        return () if setting is None else (KnobStatus("cache_ways", "ways", setting.ways, setting.ways, setting.ways),)

    async def close(self) -> None:
        """See ``Part``."""
        self._applied = {}
        await self._resctrl.restore()

    def _ways(self) -> dict[str, CacheWays]:
        lanes = sorted((lane for lane in self._dispatcher.lanes if lane.workers), key=lambda lane: lane.urgency)
        total = sum(len(lane.workers) for lane in lanes)
        if len(lanes) < 2:
            return {}
        return {
            lane.name: CacheWays(
                frozenset(worker.pid for worker in lane.workers),
                max(self._resctrl.ways * len(lane.workers) // total, 1),
            )
            for lane in lanes
        }


def _lane_of(dispatcher: Dispatcher, name: str) -> Lane | None:
    return next((lane for lane in dispatcher.lanes if lane.name == name), None)
