"""Everything on the host that a plan changes beyond the dispatcher: brought in line, read back, put back at the end.

One task does it, in the order of the parts, after each plan and once a second; the newest plan counts. The stream waits
for none of it. A part that cannot act here says so in one line, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import structlog

from streamspec.actuators.affinity import Affinity
from streamspec.actuators.cgroup import Cgroup
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.priority import Priority
from streamspec.actuators.resctrl import Resctrl
from streamspec.assembly import egress
from streamspec.assembly.caches import Caches
from streamspec.assembly.egress import Egress, egress_shares
from streamspec.assembly.staffing import HostStaffing
from streamspec.assembly.workers import Cores, Groups, Levels, Ways
from streamspec.core.actuation import Readiness
from streamspec.monitors.topology import read_topology
from streamspec.telemetry.state import ComponentHealth, KnobStatus

if TYPE_CHECKING:
    from streamspec.assembly.gpu import GpuPool
    from streamspec.assembly.parts import Part
    from streamspec.config import ServiceConfig
    from streamspec.core.control import CacheState, Plan
    from streamspec.core.topology import Topology
    from streamspec.engine.dispatcher import Dispatcher

_log = structlog.get_logger("streamspec.actuators")

TURN_SECONDS = 1.0
"""How often everything is read back and grants are reclaimed."""


class HostEffects:
    """Implements ``engine.controller.Effects``.

    Args:
        parts: in the order in which they act; put back at the end.
        dispatcher: whose grants are reclaimed.
        caches: among the parts; its states are what policies see.
        lasting: parts that act after them and are closed by somebody else.
        sweep: removes what killed services left and no part looks after.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        dispatcher: Dispatcher,
        caches: Caches,
        lasting: Sequence[Part] = (),
        sweep: Callable[[], object] | None = None,
    ) -> None:
        self.parts = (*parts, *lasting)
        self._own = tuple(parts)
        self.readiness: dict[str, Readiness] = {}
        self.failures: dict[str, str] = {}
        self._dispatcher = dispatcher
        self._caches = caches
        self._sweep = sweep
        self._plan: Plan | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    # -- life -----------------------------------------------------------------------------------
    def start(self, plan: Plan) -> None:
        """Find out what the host allows, then bring it in line with ``plan``; returns at once."""
        self._plan = plan
        self._task = asyncio.create_task(self._run(), name="effects")

    def apply(self, plan: Plan) -> None:
        """See ``Effects``."""
        self._plan = plan
        self._wake.set()

    async def turned(self) -> None:
        """Return after the next whole turn over all parts."""
        await asyncio.shield(self._turn)

    async def close(self) -> None:
        """Put everything back. Safe to call twice."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task  # not cancelled: what it does on the host shall not be left half done
            self._task = None
        for part in reversed(self._own):
            try:
                await part.close()
            except Exception:
                _log.exception("not put back", actuator=part.name, always=True)

    # -- reading --------------------------------------------------------------------------------
    def caches(self) -> tuple[CacheState, ...]:
        """Of each lane with caches, as of the last turn."""
        return self._caches.states

    def knobs(self, lane: str) -> Sequence[KnobStatus]:
        """Desired, granted and observed, of what the parts set."""
        planned = None if self._plan is None else self._plan.lane(lane)
        return () if planned is None else tuple(knob for part in self.parts for knob in part.knobs(planned))

    def health(self) -> Sequence[ComponentHealth]:
        """One per part. Where the host does not have one that is only a bonus, all is well and it says why."""
        found = []
        for part in self.parts:
            ready, failure = self.readiness.get(part.name), self.failures.get(part.name, "")
            reason = failure or _reason(ready)
            degraded = bool(failure) or (part.wanted and bool(reason))
            found.append(ComponentHealth(f"actuator {part.name}", "degraded" if degraded else "ok", reason))
        return found

    # -- the task -------------------------------------------------------------------------------
    async def _run(self) -> None:
        if self._sweep is not None:
            await self._attempt("leftovers", self._sweep)
        for part in self.parts:
            if not self._closing:
                await self._attempt(part.name, lambda part=part: self._open(part))  # type: ignore[misc]
        _log.info("actuators", **{name: ready.way for name, ready in self.readiness.items() if ready.active})
        loop = asyncio.get_running_loop()
        reclaim_at = loop.time()
        while not self._closing:
            self._wake.clear()
            for part in self.parts:
                if part.name in self.readiness:
                    await self._attempt(part.name, lambda part=part: part.apply(self._plan))  # type: ignore[misc]
            if loop.time() >= reclaim_at:
                self._dispatcher.grants.reclaim()
                reclaim_at = loop.time() + TURN_SECONDS
            done, self._turn = self._turn, loop.create_future()
            done.set_result(None)
            try:
                async with asyncio.timeout(TURN_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _open(self, part: Part) -> None:
        ready = self.readiness[part.name] = await part.open()
        if reason := _reason(ready):
            event = "actuator limited" if ready.way else "actuator not active"
            getattr(_log, part.told)(event, actuator=part.name, reason=reason, always=True)

    async def _attempt(self, name: str, act: Callable[[], object]) -> None:
        """One that fails is said once, and tried again at the next turn."""
        try:
            result = act()
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self.failures.get(name) != reason:
                _log.exception("actuator failed", actuator=name, always=True)
            self.failures[name] = reason
        else:
            self.failures.pop(name, None)


def _reason(ready: Readiness | None) -> str:
    if ready is None or (ready.active and not ready.reason):
        return ""
    text = f"{ready.way}: {ready.reason}" if ready.way else ready.reason
    return f"{text}; to enable: {ready.next_step}" if ready.next_step else text


def build_effects(
    config: ServiceConfig,
    dispatcher: Dispatcher,
    gpu: GpuPool | None,
    acting: Callable[[], bool],
    *,
    topology: Callable[[], Topology] | None = None,
    notes: Leftovers | None = None,
) -> HostEffects:
    """For one configuration. Create it inside the event loop that it shall live in.

    Args:
        gpu: of the service.
        acting: whether control may change the host now; what the configuration writes down holds in any case.
        topology: of this host, asked once.
        notes: of what is changed, for the start after a ``kill -9``.
    """
    notes = Leftovers() if notes is None else notes
    affinity, priority = Affinity(), Priority()
    staffing = HostStaffing(affinity, priority, dispatcher.grants, cache(topology or read_topology), acting)
    caches = Caches(dispatcher, dispatcher.clock)
    parts: list[Part] = [
        Levels(priority, staffing, dispatcher),
        Groups(Cgroup(leftovers=notes), staffing, dispatcher, acting),
        Cores(affinity, staffing, dispatcher),
        Ways(Resctrl(), dispatcher, acting, asked=config.control.cache_ways),
        caches,
    ]
    link = config.control.egress
    if link is not None and egress_shares(config):
        parts.append(Egress(link, config, dispatcher.delivery, notes))
    shaped = link.interface if link is not None and egress_shares(config) else None
    lasting = () if gpu is None else (gpu,)
    return HostEffects(parts, dispatcher, caches, lasting, lambda: egress.sweep(notes, shaped))
