"""The books of what stages hold: answers their requests from the pools and tells them when a grant changes.

What travels, as control messages between batches: a worker sends ``ask``, ``release`` and ``changed`` (it has
acted on a change); the dispatcher sends ``answer`` and ``change``. What is taken back counts as used until
the worker says ``changed``, so that no pool gives the same memory twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from streamspec.core.pools import AmountPool
from streamspec.core.resources import Pool, Refusal, ResourceRequest, Taken, amount_text
from streamspec.engine import wire

_log = structlog.get_logger("streamspec.grants")

CACHE_SHARE = 1 / 8
"""Of this machine's memory that stages may have as caches together, unless a pool says otherwise."""


class GrantHolder(Protocol):
    """A worker, as far as grants go."""

    index: int

    def send(self, message: bytes) -> bool:
        """Hand over one message; False when it is gone."""


@dataclass
class HeldGrant:
    """One grant on the books.

    Attributes:
        promised: what the stage was told last.
        taken: what the pools count, by resource; larger than ``promised`` until the worker has let go.
    """

    id: int
    holder: GrantHolder
    stage: str
    promised: ResourceRequest
    taken: dict[str, Taken]

    @property
    def owner(self) -> str:
        """Who has it, for those who read the pools' books."""
        return f"worker {self.holder.index} {self.stage}"


def default_pools() -> dict[str, Pool]:
    """Threads: the cores this process may use; caches: an eighth of the memory. No GPU, no bandwidth."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "threads": AmountPool("threads", len(os.sched_getaffinity(0))),
        "cache_bytes": AmountPool("cache_bytes", int(memory_bytes * CACHE_SHARE)),
    }


class Grants:
    """See the module. Decides nothing but whether a pool has enough.

    Args:
        pools: by name of the resource; what has no pool is refused.
    """

    def __init__(self, pools: Mapping[str, Pool] | None = None) -> None:
        self.pools: dict[str, Pool] = dict(default_pools() if pools is None else pools)
        self.held: dict[int, HeldGrant] = {}
        self.refused = 0
        self._next_id = 1

    # -- from workers ---------------------------------------------------------------------------
    def told(self, holder: GrantHolder, content: dict[str, Any]) -> None:
        """One message of a worker."""
        if "ask" in content:
            self._asked(holder, content)
        elif "release" in content:
            held = self.held.pop(content["release"], None)
            if held is not None:
                self._let_go(held, ResourceRequest())
        elif "changed" in content:
            held = self.held.get(content["changed"])
            if held is not None:
                self._let_go(held, ResourceRequest.from_amounts(content["amounts"]))

    def holder_gone(self, index: int) -> None:
        """Everything that this worker held is free."""
        for held in [held for held in self.held.values() if held.holder.index == index]:
            del self.held[held.id]
            self._let_go(held, ResourceRequest())

    def _asked(self, holder: GrantHolder, content: dict[str, Any]) -> None:
        stage = str(content["stage"])
        request = ResourceRequest.from_amounts(content["amounts"])
        held = HeldGrant(self._next_id, holder, stage, request, {})
        refusal = self._take(held, request)
        answer: dict[str, Any] = {"answer": content["ask"]}
        if refusal is not None:
            self.refused += 1
            _log.info("request refused", worker=holder.index, stage=stage, reason=refusal.reason)
            answer |= {"refused": refusal.reason, "available": refusal.available.amounts()}
        else:
            self._next_id += 1
            place = next((taken.place for taken in held.taken.values() if taken.place), "")
            answer |= {"grant": held.id, "amounts": request.amounts(), "place": place}
        if not holder.send(wire.encode_control({"resources": answer})):
            self._let_go(held, ResourceRequest())
        elif refusal is None:
            self.held[held.id] = held

    def _take(self, held: HeldGrant, request: ResourceRequest) -> Refusal | None:
        """All amounts or none."""
        for name, amount in request.amounts().items():
            pool = self.pools.get(name)
            taken = (
                Refusal(f"this service has no pool of {name.removesuffix('_bytes')}")
                if pool is None
                else pool.take(held.owner, amount)
            )
            if isinstance(taken, Refusal):
                self._let_go(held, ResourceRequest())
                return replace(taken, available=self.available())
            held.taken[name] = taken
        return None

    def _let_go(self, held: HeldGrant, used: ResourceRequest) -> None:
        """Give the pools back what is beyond ``used`` and beyond what was promised since."""
        keep, promised = used.amounts(zeros=True), held.promised.amounts(zeros=True)
        for name, taken in list(held.taken.items()):
            rest = max(keep[name], promised[name]) if held.id in self.held else keep[name]
            if rest < taken.amount:
                self.pools[name].give_back(held.owner, Taken(taken.amount - rest, taken.place))
                held.taken[name] = Taken(rest, taken.place)

    # -- from control -----------------------------------------------------------------------------
    def available(self) -> ResourceRequest:
        """The largest amount of each resource that one request would get now."""
        return ResourceRequest.from_amounts({name: pool.available() for name, pool in self.pools.items()})

    def resize(self, held: HeldGrant, name: str, amount: float, reason: str) -> Refusal | None:
        """Change one amount of a grant, up or down. The worker learns of it before its next batch.

        Returns:
            Why it stays as it is; None when the worker was told.
        """
        promised = held.promised.amounts(zeros=True)
        taken = held.taken.get(name, Taken(0))
        if amount > taken.amount:
            pool = self.pools.get(name)
            more = Refusal("there is no such pool") if pool is None else _more(pool, held.owner, amount, taken)
            if isinstance(more, Refusal):
                return more
            held.taken[name] = Taken(amount, more.place)
        held.promised = ResourceRequest.from_amounts({**promised, name: amount})
        change = {"change": held.id, "amounts": held.promised.amounts(), "reason": reason}
        if not held.holder.send(wire.encode_control({"resources": change})):
            return Refusal("the worker takes no messages now")
        return None

    def resize_stage(
        self, stage: str, name: str, amount: float, reason: str, workers: Iterable[int] | None = None
    ) -> dict[int, str]:
        """:meth:`resize` for every worker (or those given) whose ``stage`` holds some of ``name``.

        Returns:
            Why not, by worker.
        """
        chosen = None if workers is None else set(workers)
        refused = {}
        for held in list(self.held.values()):
            if (
                held.stage != stage
                or name not in held.taken
                or (chosen is not None and held.holder.index not in chosen)
            ):
                continue
            refusal = self.resize(held, name, amount, reason)
            if refusal is not None:
                refused[held.holder.index] = refusal.reason
        return refused

    def reclaim(self) -> list[HeldGrant]:
        """Shrink the largest grants of every pool that has given more than there is by now (another process
        took GPU memory, a limit was lowered). To be called now and then; returns what was told to shrink."""
        shrunk = []
        for name, pool in self.pools.items():
            for place, excess in pool.overdraft().items():
                for held in self._largest(name, place):
                    promised = held.promised.amounts(zeros=True)[name]
                    excess -= held.taken[name].amount - promised  # is on its way back already
                    if excess <= 0:
                        break
                    less = min(excess, promised)
                    reason = f"{amount_text(name, less)} taken back: more is in use than there is"
                    if less and self.resize(held, name, promised - less, reason) is None:
                        _log.info(
                            "grant shrunk", worker=held.holder.index, stage=held.stage, reason=reason, always=True
                        )
                        excess -= less
                        shrunk.append(held)
        return shrunk

    def _largest(self, name: str, place: str) -> list[HeldGrant]:
        found = [h for h in self.held.values() if name in h.taken and h.taken[name].place == place]
        return sorted(found, key=lambda held: -held.taken[name].amount)

    def promised(self, stage: str, name: str) -> dict[int, float]:
        """What workers were told last that they may use, by worker; some may not have acted on it yet."""
        return {
            h.holder.index: h.promised.amounts(zeros=True)[name]
            for h in self.held.values()
            if h.stage == stage and name in h.taken
        }

    def stages_with(self, name: str) -> list[str]:
        """Stages of which some worker holds some of this resource."""
        return sorted({held.stage for held in self.held.values() if name in held.taken})

    def granted(self, stage: str, name: str) -> dict[int, float]:
        """What workers have said that they use (or were granted), by worker."""
        return {
            h.holder.index: h.taken[name].amount for h in self.held.values() if h.stage == stage and name in h.taken
        }


def _more(pool: Pool, owner: str, amount: float, taken: Taken) -> Taken | Refusal:
    return pool.take(owner, amount - taken.amount, taken.place)
