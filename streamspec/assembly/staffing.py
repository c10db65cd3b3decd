"""Nice levels and cores of workers, set at once whenever workers are given to lanes, and read back.

A lane's own ``cores`` win. Others get theirs from the topology while every worker can have a physical core and one is
left for the dispatcher; beyond that all cores are everyone's, and nice levels decide. One lane alone on cores that are
all alike keeps them all, too: a pinned worker would only wait for whoever else runs on its core.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from streamspec.actuators.affinity import Affinity
from streamspec.actuators.placement import LaneDemand, place, spread
from streamspec.actuators.priority import Priority, Urgency
from streamspec.assembly.parts import Complaints
from streamspec.core.topology import Cores, Topology

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamspec.engine.fleet import Worker
    from streamspec.engine.grants import Grants
    from streamspec.engine.lane import Lane

ANY: Cores = frozenset()


class HostStaffing:
    """Implements ``engine.staffing.Staffing``.

    Args:
        affinity, priority: probed by their owner.
        grants: says how many threads workers run.
        topology: of this host.
        placing: whether lanes get cores by the topology now.

    Attributes:
        decided: cores by index of worker; without an entry: any.
    """

    def __init__(
        self,
        affinity: Affinity,
        priority: Priority,
        grants: Grants,
        topology: Callable[[], Topology],
        placing: Callable[[], bool],
    ) -> None:
        self._affinity = affinity
        self._priority = priority
        self._grants = grants
        self._topology = topology
        self._placing = placing
        self._met: WeakSet[Worker] = WeakSet()
        """Workers whose threads have all been set."""
        self._own_nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._placed: tuple[tuple[LaneDemand, ...], Cores, Mapping[str, Cores]] | None = None
        self._complaints = {"priority": Complaints("priority"), "affinity": Complaints("affinity")}
        self._refused: dict[str, dict[int, str]] = {"priority": {}, "affinity": {}}
        self.decided: dict[int, Cores] = {}
        self.observed: dict[int, Cores] = {}

    def can_become(self, worker: Worker, nice: int) -> bool:
        """See ``Staffing``."""
        return self._priority.can_become(worker.pid, self._level(nice))

    def staffed(self, lanes: Sequence[Lane]) -> None:
        """See ``Staffing``: workers that have what they need cost a comparison each."""
        workers = [worker for lane in lanes for worker in lane.workers]
        self._renice(lanes)
        self.decided = self._decide(lanes)
        self._confine(workers)
        self._met.update(workers)

    def read_back(self, lanes: Sequence[Lane]) -> None:
        """Ask the host what workers have; set again what is not as it was set (a cpuset that changed, someone with
        ``taskset``), and log what is refused."""
        for worker in [worker for lane in lanes for worker in lane.workers]:
            try:
                worker.granted_cores = frozenset(os.sched_getaffinity(worker.pid))
                worker.granted_nice = os.getpriority(os.PRIO_PROCESS, worker.pid) - self._own_nice
            except OSError:  # it has just ended
                continue
        self.staffed(lanes)
        workers = [worker for lane in lanes for worker in lane.workers]
        self.observed = {worker.index: worker.granted_cores for worker in workers}
        present = {worker.index for worker in workers}
        for name, complaints in self._complaints.items():
            refused = [why for index, why in self._refused[name].items() if index in present]
            complaints.hear({"workers": f"{len(refused)} of {len(present)}: {refused[0]}"} if refused else {})

    # -- parts ----------------------------------------------------------------------------------
    def _level(self, nice: int) -> int:
        """A lane's level counts from that of the service, which somebody may have started with ``nice``."""
        return max(min(self._own_nice + nice, 19), -20)

    def _renice(self, lanes: Sequence[Lane]) -> None:
        wanted = {worker: lane.allocation.nice for lane in lanes for worker in lane.workers}
        changed = {
            worker: nice for worker, nice in wanted.items() if worker.granted_nice != nice or worker not in self._met
        }
        applied = self._priority.apply_now({worker.pid: Urgency(self._level(nice)) for worker, nice in changed.items()})
        refused = self._refused["priority"]
        for worker in wanted:
            if worker.pid in applied.observed:
                worker.granted_nice = applied.observed[worker.pid].nice - self._own_nice
            refused.pop(worker.index, None)
            if worker.pid in applied.refused:
                refused[worker.index] = applied.refused[worker.pid]

    def _confine(self, workers: Sequence[Worker]) -> None:
        wanted = {worker: self.decided.get(worker.index, ANY) or self._affinity.usable for worker in workers}
        changed = {
            worker: cores
            for worker, cores in wanted.items()
            if (worker.granted_cores or self._affinity.usable) != cores or worker not in self._met
        }
        applied = self._affinity.apply_now({worker.pid: cores for worker, cores in changed.items()})
        refused = self._refused["affinity"]
        for worker in wanted:
            if worker.pid in applied.observed:
                worker.granted_cores = applied.observed[worker.pid]
            refused.pop(worker.index, None)
            if worker.pid in applied.refused:
                refused[worker.index] = applied.refused[worker.pid]

    def _decide(self, lanes: Sequence[Lane]) -> dict[int, Cores]:
        threads = self._threads()
        own = {
            worker.index: lane.allocation.cores for lane in lanes for worker in lane.workers if lane.allocation.cores
        }
        others = [lane for lane in lanes if lane.workers and not lane.allocation.cores]
        if not others or not self._placing():
            return own
        taken = frozenset(core for cores in own.values() for core in cores)
        demands = tuple(
            LaneDemand(lane.name, sum(threads.get(worker.index, 1) for worker in lane.workers), lane.urgency)
            for lane in others
        )
        placed = self._place(demands, taken)
        for lane in others if placed else ():
            cores = placed[lane.name]
            parts = [cores] * len(lane.workers)
            if all(threads.get(worker.index, 1) == 1 for worker in lane.workers):
                parts = spread(cores, len(lane.workers), self._topology())
            own |= {worker.index: part for worker, part in zip(lane.workers, parts, strict=True)}
        return own

    def _place(self, demands: tuple[LaneDemand, ...], taken: Cores) -> Mapping[str, Cores]:
        """Cores by lane; none where all are shared. Decided anew only when something else is asked for."""
        if self._placed is None or self._placed[:2] != (demands, taken):
            topology = self._topology()
            free = [group - taken for group in topology.physical if group - taken]
            fits = sum(demand.workers for demand in demands) < len(free) and (len(demands) > 1 or not _alike(topology))
            self._placed = (demands, taken, place(topology, demands, reserved=taken) if fits else {})
        return self._placed[2]

    def _threads(self) -> dict[int, int]:
        """Threads that stages were granted, by worker; 1 is not listed."""
        found: dict[int, float] = {}
        for stage in self._grants.stages_with("threads"):
            for index, count in self._grants.granted(stage, "threads").items():
                found[index] = found.get(index, 0.0) + count
        return {index: int(count) for index, count in found.items() if count > 1}


def _alike(topology: Topology) -> bool:
    """Which of its cores one uses makes no difference."""
    usable = [core for core in topology.cores if core.number in topology.usable]
    same = len({(core.node, core.capacity, core.isolated) for core in usable}) == 1
    return same and len(topology.caches) == 1 and len(topology.physical) == len(usable)
