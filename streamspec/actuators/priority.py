"""Nice level and SCHED_BATCH of worker processes.

Any process may become nicer; coming back needs CAP_SYS_NICE or RLIMIT_NICE. What is possible is tried on a
thread that ends afterwards. A worker whose level cannot be lowered keeps it, and the answer says so: lanes
then get workers of the level that they need.
"""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from streamspec.actuators.leftovers import Owner
from streamspec.actuators.threads import for_each_thread
from streamspec.core.actuation import Applied, Readiness

NEXT_STEP = "give the process CAP_SYS_NICE (docker run --cap-add SYS_NICE), or `ulimit -e 40` before it starts"


@dataclass(frozen=True, slots=True)
class Urgency:
    """How the kernel weighs a process.

    Attributes:
        nice: -20 (urgent) to 19; one level is about a quarter of weight.
        batch: SCHED_BATCH: it never interrupts another when it wakes up, for lanes whose latency is of no matter.
    """

    nice: int = 0
    batch: bool = False


@dataclass(frozen=True, slots=True)
class PriorityRange:
    """What this process may do.

    Attributes:
        lowest_nice: level that a process may be brought back to; 20: no process ever becomes less nice.
        batch: SCHED_BATCH can be set and unset.
    """

    lowest_nice: int
    batch: bool

    @classmethod
    def try_out(cls) -> PriorityRange:
        """Try it on a thread of its own, which takes all changes with it."""
        found: list[PriorityRange] = []
        thread = threading.Thread(target=lambda: found.append(cls(_lowest_nice(), _batch_works())))
        thread.start()
        thread.join()
        return found[0]


def _lowest_nice() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    limit = -20 if soft == resource.RLIM_INFINITY else 20 - soft
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    for level in (-20, limit):
        try:
            os.setpriority(os.PRIO_PROCESS, 0, level)
        except OSError:
            continue
        return level if level < 19 else 20
    return 20


def _batch_works() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        return False
    return True


class Priority:
    """Implements ``Actuator`` by pid."""

    name = "priority"

    def __init__(self) -> None:
        self.range = PriorityRange(20, False)
        self._before: dict[Owner, Urgency] = {}

    async def probe(self) -> Readiness:
        """See ``Actuator``."""
        self.range = PriorityRange.try_out()
        present = os.getpriority(os.PRIO_PROCESS, 0)
        batch = "SCHED_BATCH" if self.range.batch else "no SCHED_BATCH"
        if self.range.lowest_nice <= -20:
            return Readiness(self.name, True, f"nice -20 to 19, {batch}")
        lowest = min(present, self.range.lowest_nice)
        reason = f"nice levels below {lowest} are not permitted"
        if self.range.lowest_nice > present:
            reason = "workers can become nicer and not come back"
        return Readiness(self.name, True, f"nice {lowest} to 19, {batch}", reason, NEXT_STEP)

    def can_become(self, pid: int, nice: int) -> bool:
        """Whether this process may be given that level now."""
        try:
            return nice >= min(os.getpriority(os.PRIO_PROCESS, pid), self.range.lowest_nice)
        except OSError:
            return False

    async def apply(self, desired: Mapping[int, Urgency]) -> Applied[int, Urgency]:
        """See ``Actuator``."""
        return self.apply_now(desired)

    def apply_now(self, desired: Mapping[int, Urgency]) -> Applied[int, Urgency]:
        """:meth:`apply` for callers that cannot wait: a few dozen microseconds per process."""
        observed, refused = {}, {}
        for pid, urgency in desired.items():
            try:
                refusal = self._set(pid, urgency)
                observed[pid] = _read(pid)
            except ProcessLookupError:
                refusal = "the process has ended"
            if refusal:
                refused[pid] = refusal
        return Applied(observed, refused)

    async def read_back(self) -> Mapping[int, Urgency]:
        """See ``Actuator``."""
        found = {}
        for owner in [owner for owner in self._before if owner.lives()]:
            try:
                found[owner.pid] = _read(owner.pid)
            except ProcessLookupError:
                continue
        return found

    async def restore(self) -> None:
        """See ``Actuator``. A level that may not be lowered stays; the process ends with the service."""
        before, self._before = self._before, {}
        for owner, urgency in before.items():
            if owner.lives():
                try:
                    _set_threads(owner.pid, urgency)
                except OSError:
                    continue

    def _set(self, pid: int, urgency: Urgency) -> str:
        owner = Owner.of(pid)
        if owner is None:
            raise ProcessLookupError(pid)
        present = _read(pid)
        met = owner in self._before
        if not met:
            self._before = {known: was for known, was in self._before.items() if known.lives()}
            self._before[owner] = present
        if urgency == present and met:  # at the first time, other threads may have another level
            return ""
        try:
            _set_threads(pid, urgency)
        except PermissionError:
            return f"nice {urgency.nice} needs CAP_SYS_NICE; it stays at {present.nice}"
        except ProcessLookupError:
            raise
        except OSError as error:
            return f"not accepted: {error.strerror}"
        return ""


def _set_threads(pid: int, urgency: Urgency) -> None:
    policy = os.SCHED_BATCH if urgency.batch else os.SCHED_OTHER

    def act(tid: int) -> None:
        os.setpriority(os.PRIO_PROCESS, tid, urgency.nice)
        if os.sched_getscheduler(tid) != policy:
            os.sched_setscheduler(tid, policy, os.sched_param(0))

    for_each_thread(pid, act)


def _read(pid: int) -> Urgency:
    return Urgency(os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid) == os.SCHED_BATCH)
