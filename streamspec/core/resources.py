"""Amounts of resources: what a stage asks for and is granted, and what a lane is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

from streamspec.core.units import format_bytes, parse_bytes, parse_bytes_per_second


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What a stage asks for. Zero means "no particular amount".

    Attributes:
        threads: threads that the stage runs inside its worker.
        cache_bytes: memory that only makes it faster.
        gpu_memory_bytes: memory of one device.
        bytes_per_second: bandwidth on the way out.
    """

    threads: int = 0
    cache_bytes: int = 0
    gpu_memory_bytes: int = 0
    bytes_per_second: float = 0.0

    @classmethod
    def of(
        cls, *, threads: int = 0, cache: int | str = 0, gpu_memory: int | str = 0, bandwidth: float | str = 0
    ) -> ResourceRequest:
        """From amounts as people write them: ``of(gpu_memory="2 GiB", cache="64 MiB", threads=2)``.

        Raises:
            ValueError: not an amount, or below zero.
        """
        asked = cls(threads, parse_bytes(cache), parse_bytes(gpu_memory), parse_bytes_per_second(bandwidth))
        if min(asked.amounts(zeros=True).values()) < 0:
            raise ValueError(f"amounts must not be negative: {asked}")
        return asked

    @classmethod
    def from_amounts(cls, amounts: Mapping[str, float]) -> ResourceRequest:
        """The inverse of :meth:`amounts`; unknown names are left out."""
        return cls(
            threads=int(amounts.get("threads", 0)),
            cache_bytes=int(amounts.get("cache_bytes", 0)),
            gpu_memory_bytes=int(amounts.get("gpu_memory_bytes", 0)),
            bytes_per_second=float(amounts.get("bytes_per_second", 0.0)),
        )

    def amounts(self, *, zeros: bool = False) -> dict[str, float]:
        """By name of field, those that are not zero (or all)."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: amount for name, amount in found.items() if zeros or amount}

    def __str__(self) -> str:
        return ", ".join(amount_text(name, amount) for name, amount in self.amounts().items()) or "nothing"


RESOURCE_NAMES = tuple(f.name for f in fields(ResourceRequest))
"""What can be asked for; also the names of the pools that it comes from."""


def amount_text(name: str, amount: float) -> str:
    """``("gpu_memory_bytes", 2 << 30)`` -> ``"gpu_memory 2.0 GiB"``."""
    if name == "threads":
        return f"{amount:.0f} threads"
    if name == "bytes_per_second":
        return f"bandwidth {format_bytes(amount)}/s"
    return f"{name.removesuffix('_bytes')} {format_bytes(amount)}"


@dataclass(eq=False, slots=True)
class Grant:
    """What a stage holds now; true in conditions. It changes in place when the service takes some of it back.

    Attributes:
        id: its number in this service.
        amounts: what may be used from now on, never more than what was asked for last.
        place: the device of ``gpu_memory_bytes`` as NVML numbers it (``"0"``) or its MIG UUID; else empty.
        on_change: called with the grant after ``amounts`` has changed, between two batches.
        reason: of the last change.
    """

    id: int
    amounts: ResourceRequest
    place: str = ""
    on_change: Callable[[Grant], None] | None = None
    reason: str = ""
    give_back: Callable[[Grant], None] | None = None

    def release(self) -> None:
        """Give it back; safe to call twice. What ends with its worker need not be given back."""
        given, self.give_back = self.give_back, None
        self.amounts = ResourceRequest()
        if given is not None:
            given(self)

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stage did not get what it asked for; false in conditions.

    Attributes:
        reason: which amount was short, and of what.
        available: what a request would have got at that moment.
    """

    reason: str
    available: ResourceRequest = ResourceRequest()

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Taken:
    """An amount that a pool has given, and where it lies."""

    amount: float
    place: str = ""


class Pool(Protocol):
    """A bounded amount of one resource that grants are taken from."""

    def take(self, holder: str, amount: float, place: str = "") -> Taken | Refusal:
        """All of it or nothing. ``holder`` is for those who read the books; ``place``: only there, if given."""

    def give_back(self, holder: str, taken: Taken) -> None:
        """What was taken, or a part of it."""

    def available(self) -> float:
        """The largest amount that :meth:`take` would give now."""

    def overdraft(self) -> Mapping[str, float]:
        """By place, how much more is granted than there is by now."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one lane is given; a policy proposes one, the engine applies the difference.

    Attributes:
        workers: warm workers assigned to the lane, at least 1 unless the lane is closed.
        nice: nice level of those workers, -20 (urgent) to 19.
        cores: CPU numbers they may use; empty means all that the process may use.
        batch: most segments handed to a worker in one message, 1 to 256.
        bytes_per_second: egress bandwidth; 0 means no limit of its own.
        cache_bytes: caches of the lane's workers together; 0 leaves them as configured.
        gpu_memory_bytes: GPU memory of the lane's workers together; 0 means none is set aside.
    """

    workers: int = 1
    nice: int = 0
    cores: frozenset[int] = field(default_factory=frozenset)
    batch: int = 16
    bytes_per_second: float = 0.0
    cache_bytes: int = 0
    gpu_memory_bytes: int = 0
