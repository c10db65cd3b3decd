"""How decisions reach the host: probe what is possible, apply, read back what became of it, put it back.

An *actuator* changes one kind of thing. Each stands alone: one that cannot work says so once and the others
go on. After :meth:`Actuator.restore` the host is as it was before the first :meth:`Actuator.apply`; what a
killed process left behind is found and removed by the next :meth:`Actuator.probe`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)
Setting = TypeVar("Setting")


@dataclass(frozen=True, slots=True)
class Readiness:
    """What an actuator can do here.

    Attributes:
        name: of the actuator, as in ``streamspec doctor --require``.
        active: it acts as designed.
        way: how it acts now, e.g. ``HTB on eth0``; also when it makes do with less.
        reason: why it does not act, or does with less; empty when it is active in full.
        next_step: the command or setting that would enable it.
    """

    name: str
    active: bool
    way: str
    reason: str = ""
    next_step: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {self.way}" if self.way else f"{self.name}: not active"
        if self.reason:
            text += f": {self.reason}"
        return f"{text}; to enable: {self.next_step}" if self.next_step else text


@dataclass(frozen=True)
class Applied(Generic[Key, Setting]):
    """What became of desired settings.

    Attributes:
        observed: read back from the host after the change.
        refused: why a key did not get what was desired, in one clause.
    """

    observed: Mapping[Key, Setting] = field(default_factory=dict)
    refused: Mapping[Key, str] = field(default_factory=dict)


class Actuator(Protocol[Key, Setting]):
    """One kind of thing on the host that control may change. Called from one event loop, never concurrently."""

    name: str

    async def probe(self) -> Readiness:
        """Try what is needed, without lasting effect, and remove what a killed process left. Never raises."""

    async def apply(self, desired: Mapping[Key, Setting]) -> Applied[Key, Setting]:
        """Set the given keys and leave others as they are. What the host refuses is in the answer."""

    async def read_back(self) -> Mapping[Key, Setting]:
        """What the host has now, for every key that was ever applied and still exists."""

    async def restore(self) -> None:
        """Put everything back. Safe to call twice, and without an ``apply``."""
