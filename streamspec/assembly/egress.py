"""The way out, shared out among traffic classes: HTB classes and the sinks' sockets in them, or the sinks' own pace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from streamspec.actuators.bandwidth import Bandwidth
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.shares import EgressShare, fit
from streamspec.assembly.parts import Complaints, Level
from streamspec.core.actuation import Readiness
from streamspec.core.control import LanePlan, Plan
from streamspec.core.errors import StreamspecError
from streamspec.engine.traffic_sinks import TrafficSinkRunner
from streamspec.telemetry.state import KnobStatus

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig
    from streamspec.config.control import EgressConfig
    from streamspec.engine.delivery import Delivery

MOST_URGENCIES = 8


def egress_shares(config: ServiceConfig) -> dict[str, float]:
    """What each traffic class is given of the way out at the start, bytes per second: as written, and an equal part
    of the rest. Empty where nothing is shared out."""
    egress, lanes = config.control.egress, config.effective_lanes
    if egress is None or len(lanes) < 2:
        return {}
    written = {lane.name: lane.bytes_per_second for lane in lanes if lane.bytes_per_second is not None}
    rest = max(egress.bytes_per_second - sum(written.values()), 0.0) / max(len(lanes) - len(written), 1)
    return {lane.name: written.get(lane.name, rest) for lane in lanes}


class Egress:
    """Implements ``Part`` for the bandwidth of one interface. A traffic class never gets less than is written for it.

    Args:
        config: the section ``control.egress``.
        service: with the traffic classes.
        delivery: whose sinks leave by it.
        notes: of what was changed.
    """

    name = "bandwidth"
    wanted = True
    told: Level = "warning"

    def __init__(self, config: EgressConfig, service: ServiceConfig, delivery: Delivery, notes: Leftovers) -> None:
        self.actuator = Bandwidth(config.interface, config.bytes_per_second, notes)
        lanes = service.effective_lanes
        self._classes = [lane.name for lane in lanes]
        self._least = {lane.name: lane.bytes_per_second or 0.0 for lane in lanes}
        ranks = sorted({lane.urgency for lane in lanes})
        self._urgency = {lane.name: min(ranks.index(lane.urgency), MOST_URGENCIES - 1) for lane in lanes}
        self._delivery = delivery
        self._complaints = Complaints(self.name)
        self._desired: dict[str, EgressShare] = {}
        self._observed: dict[str, EgressShare] = {}
        self._shaped: WeakKeyDictionary[TrafficSinkRunner, dict[int, str | None]] = WeakKeyDictionary()

    async def open(self) -> Readiness:
        """See ``Part``."""
        return await self.actuator.probe()

    async def apply(self, plan: Plan) -> None:
        """See ``Part``. A tree that somebody removed is made anew."""
        self._desired = {name: EgressShare(self._rate(name, plan), 0.0, self._urgency[name]) for name in self._classes}
        applied = await self.actuator.apply(self._desired)
        self._observed = dict(applied.observed)
        self._complaints.hear(dict(applied.refused) | self._shape())

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """See ``Part``: lanes of one traffic class share what it has."""
        desired = self._desired.get(lane.traffic)
        if desired is None:
            return ()
        granted = fit(self._desired, self.actuator.link_bytes_per_second)[lane.traffic]
        observed = self._observed.get(lane.traffic)
        return (
            KnobStatus(
                "bytes_per_second",
                "bytes per second",
                desired.bytes_per_second,
                granted.bytes_per_second,
                None if observed is None else observed.bytes_per_second,
            ),
        )

    async def close(self) -> None:
        """See ``Part``. Sockets leave their classes first, so that what waits there is all that must drain."""
        for runner in self._runners():
            for index in self._shaped.pop(runner, {}):
                self._shape_one(runner, index, None, paced=False)
        await self.actuator.restore()

    def _rate(self, traffic: str, plan: Plan) -> float:
        planned = sum(lane.allocation.bytes_per_second for lane in plan.lanes if lane.traffic == traffic)
        return max(planned, self._least[traffic])

    def _runners(self) -> list[TrafficSinkRunner]:
        return [runner for runner in self._delivery.sinks if isinstance(runner, TrafficSinkRunner)]

    def _shape(self) -> dict[str, str]:
        """Bring sinks that are new, or whose class is another, where they belong. What they refused."""
        refused = {}
        for runner in self._runners():
            known = self._shaped.setdefault(runner, {})
            for index, name in enumerate(self._classes[: runner.copies]):
                tag = self.actuator.class_of(name)
                if index in known and known[index] == tag:
                    continue
                known[index] = tag
                if why := self._shape_one(runner, index, tag, paced=True):
                    refused[f"{runner.name} {name}"] = why
        return refused

    def _shape_one(self, runner: TrafficSinkRunner, index: int, tag: str | None, *, paced: bool) -> str:
        pacer = self.actuator.pacer if paced else None
        try:
            runner.shape(index, tag, None if pacer is None else pacer.pace_of(self._classes[index]))
        except StreamspecError as error:
            return str(error)
        return ""


async def sweep(notes: Leftovers, but: str | None) -> None:
    """Remove trees that killed services left on interfaces other than ``but``, in this network namespace."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    for _, place in notes.of_the_dead(Egress.name):
        interface = place.get("interface") if isinstance(place, dict) else None
        if interface and interface != but and place.get("namespace") == here:
            dead = Bandwidth(interface, 1.0, notes)
            await dead.probe()
            await dead.restore()
