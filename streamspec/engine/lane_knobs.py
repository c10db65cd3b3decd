"""The settings of lanes as decided, as granted, and as the host says when asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from streamspec.engine.dispatcher import Dispatcher
from streamspec.engine.lane import Lane
from streamspec.telemetry.state import KnobStatus, WorkerStatus

_UNITS = {"bytes_per_second": "bytes per second", "cache_bytes": "bytes", "gpu_memory_bytes": "bytes"}


@dataclass(frozen=True)
class _Observed:
    nice: int
    cores: tuple[int, ...]


class LaneKnobs:
    """Reads lanes and their workers; asks the host only in :meth:`read_back`."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._usable = len(os.sched_getaffinity(0))
        self._observed: dict[int, _Observed] = {}

    def read_back(self) -> None:
        """Ask the host for nice level and cores of every worker: a few microseconds each."""
        found = {}
        for worker in self._dispatcher.fleet.present():
            try:
                nice = os.getpriority(os.PRIO_PROCESS, worker.pid)
                found[worker.pid] = _Observed(nice, tuple(sorted(os.sched_getaffinity(worker.pid))))
            except OSError:  # it has just ended
                continue
        self._observed = found

    def workers(self, lane: Lane) -> tuple[WorkerStatus, ...]:
        """The lane's workers."""
        return tuple(
            WorkerStatus(worker.index, worker.pid, seen.nice, seen.cores, worker.in_flight)
            if (seen := self._observed.get(worker.pid))
            else WorkerStatus(worker.index, worker.pid, in_flight_segments=worker.in_flight)
            for worker in lane.workers
        )

    def knobs(self, lane: Lane, extra: Sequence[KnobStatus] = ()) -> tuple[KnobStatus, ...]:
        """All settings of a lane that are in use; ``extra`` replaces those of the same name."""
        wanted = lane.allocation
        seen = [self._observed[worker.pid] for worker in lane.workers if worker.pid in self._observed]
        cores = {core for worker in lane.workers for core in worker.granted_cores}
        found = [
            KnobStatus("workers", "workers", wanted.workers, len(lane.workers), len(seen)),
            KnobStatus(
                "nice",
                "level",
                wanted.nice,
                _furthest([worker.granted_nice for worker in lane.workers], wanted.nice),
                _furthest([worker.nice for worker in seen], wanted.nice),
            ),
            KnobStatus(
                "cores",
                "cores",
                len(wanted.cores) or self._usable,
                len(cores) or None,
                len({core for worker in seen for core in worker.cores}) or None,
            ),
            KnobStatus("batch", "segments", wanted.batch, wanted.batch),
        ]
        for knob, unit in _UNITS.items():
            if amount := getattr(wanted, knob):
                found.append(KnobStatus(knob, unit, amount))
        replaced = {knob.knob for knob in extra}
        return (*(knob for knob in found if knob.knob not in replaced), *extra)


def _furthest(values: list[int], wanted: int) -> int | None:
    """Of differing workers the one that is furthest from what was decided."""
    return max(values, key=lambda value: abs(value - wanted), default=None)
