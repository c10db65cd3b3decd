"""Who works for whom, brought to the host: nice level and cores of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streamspec.engine.fleet import Worker
    from streamspec.engine.lane import Lane


class Staffing(Protocol):
    """Told by the dispatcher, whenever workers have been given to lanes."""

    def can_become(self, worker: Worker, nice: int) -> bool:
        """Whether the worker may be given that nice level; those that may are chosen first."""

    def staffed(self, lanes: Sequence[Lane]) -> None:
        """Bring the workers of all lanes in line with their allocation, at once; nothing is raised."""


class PlainStaffing:
    """Implements ``Staffing``: nice level and cores as the allocation says, of the worker's first thread and of those
    that it starts later."""

    def can_become(self, worker: Worker, nice: int) -> bool:
        """See ``Staffing``: nothing is known of it."""
        return True

    def staffed(self, lanes: Sequence[Lane]) -> None:
        """See ``Staffing``."""
        for lane in lanes:
            for worker in lane.workers:
                worker.set_nice(lane.allocation.nice)
                worker.set_cores(lane.allocation.cores)
