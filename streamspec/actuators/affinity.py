"""Cores of worker processes, by ``sched_setaffinity``: every thread of each, read back, put back."""

from __future__ import annotations

import os
from collections.abc import Mapping

from streamspec.actuators.leftovers import Owner
from streamspec.actuators.threads import for_each_thread
from streamspec.core.actuation import Applied, Readiness

Cores = frozenset[int]


class Affinity:
    """Implements ``Actuator`` by pid. An empty set means every core that this process may use.

    Args:
        usable: cores that may be given out; ``None``: those this process has when it is made.
    """

    name = "affinity"

    def __init__(self, usable: Cores | None = None) -> None:
        self.usable: Cores = frozenset(os.sched_getaffinity(0)) if usable is None else usable
        self._before: dict[Owner, Cores] = {}

    async def probe(self) -> Readiness:
        """See ``Actuator``: sets this thread's cores to what they are."""
        try:
            os.sched_setaffinity(0, os.sched_getaffinity(0))
        except OSError as error:
            step = "allow sched_setaffinity in the seccomp profile of the container"
            return Readiness(self.name, False, "", f"sched_setaffinity: {error.strerror}", step)
        if len(self.usable) < 2:
            step = "give the process more cores (taskset, cpuset of its container)"
            return Readiness(self.name, False, "one core", "only one core may be used here", step)
        return Readiness(self.name, True, f"sched_setaffinity on {len(self.usable)} cores")

    async def apply(self, desired: Mapping[int, Cores]) -> Applied[int, Cores]:
        """See ``Actuator``."""
        return self.apply_now(desired)

    def apply_now(self, desired: Mapping[int, Cores]) -> Applied[int, Cores]:
        """:meth:`apply` for callers that cannot wait: a few dozen microseconds per process."""
        observed, refused = {}, {}
        for pid, cores in desired.items():
            wanted = cores or self.usable
            try:
                if outside := wanted - self.usable:
                    refused[pid] = f"cores {sorted(outside)} may not be used here; usable: {sorted(self.usable)}"
                else:
                    self._set(pid, wanted)
                observed[pid] = frozenset(os.sched_getaffinity(pid))
            except ProcessLookupError:
                refused[pid] = "the process has ended"
            except OSError as error:
                refused[pid] = f"sched_setaffinity: {error.strerror}"
        return Applied(observed, refused)

    async def read_back(self) -> Mapping[int, Cores]:
        """See ``Actuator``."""
        found = {}
        for owner in [owner for owner in self._before if owner.lives()]:
            try:
                found[owner.pid] = frozenset(os.sched_getaffinity(owner.pid))
            except OSError:
                continue
        return found

    async def restore(self) -> None:
        """See ``Actuator``."""
        before, self._before = self._before, {}
        for owner, cores in before.items():
            if owner.lives():
                try:
                    self._each(owner.pid, cores)
                except OSError:
                    continue

    def _set(self, pid: int, cores: Cores) -> None:
        owner = Owner.of(pid)
        if owner is None:
            raise ProcessLookupError(pid)
        if owner not in self._before:
            self._before = {known: was for known, was in self._before.items() if known.lives()}
            self._before[owner] = frozenset(os.sched_getaffinity(pid))
        self._each(pid, cores)

    @staticmethod
    def _each(pid: int, cores: Cores) -> None:
        for_each_thread(pid, lambda tid: os.sched_setaffinity(tid, cores))
