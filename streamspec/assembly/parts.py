"""What the parts of :mod:`streamspec.assembly.effects` have in common."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, Protocol

import structlog

from streamspec.core.actuation import Readiness
from streamspec.core.control import LanePlan, Plan
from streamspec.telemetry.state import KnobStatus

_log = structlog.get_logger("streamspec.actuators")

Level = Literal["warning", "info", "debug"]


class Part(Protocol):
    """Brings one kind of setting on the host in line with plans. Called from one task, never concurrently.

    Attributes:
        name: of its actuator.
        wanted: it is missed where it cannot act; others are a bonus where the host has them.
        told: at which level of the log it is said that it cannot act.
    """

    name: str
    wanted: bool
    told: Level

    async def open(self) -> Readiness:
        """Find out what is possible, and remove what a killed service left."""

    async def apply(self, plan: Plan) -> None:
        """Bring the host in line, and read back. Called for each plan and once a second: it does only what differs."""

    def knobs(self, lane: LanePlan) -> Sequence[KnobStatus]:
        """Desired, granted and observed, of one lane."""

    async def close(self) -> None:
        """Put everything back. Safe to call twice, and without ``open``."""


class Complaints:
    """What the host refuses, logged when it is refused first and not again while that lasts."""

    def __init__(self, actuator: str) -> None:
        self._actuator = actuator
        self._known: frozenset[Hashable] = frozenset()

    def hear(self, refused: Mapping[Any, str]) -> None:
        """All refusals that there are now."""
        for what in [what for what in refused if what not in self._known]:
            reason = refused[what]
            _log.warning("setting refused", actuator=self._actuator, what=_text(what), reason=reason, always=True)
        self._known = frozenset(refused)


def _text(what: Hashable) -> str:
    return " ".join(map(str, what)) if isinstance(what, tuple) else str(what)
