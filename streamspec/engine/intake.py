"""What a source is given: slots of the arena, and the way into the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import xxhash

from streamspec.core.interfaces import Slots
from streamspec.core.tally import Tally

if TYPE_CHECKING:
    from streamspec.engine.dispatcher import Dispatcher


WAKING_PART = 16
"""Which part of the slots has to be free before sources that wait for room are woken; fewer wait for the next tick."""

IntakeLevel = Literal["open", "slow", "paused"]
"""How freely sources that can wait may take slots."""


class Room:
    """Wakes sources that wait for slots. Sources that can wait leave a reserve for those that cannot."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._kept = False
        self._level: IntakeLevel = "open"
        self._waiters: list[asyncio.Future[None]] = []
        self.reserve = 0

    def keep_reserve(self, keep: bool) -> None:
        """A quarter of the arena is kept for sources that cannot wait."""
        self._kept = keep
        self._weigh()

    def set_level(self, level: IntakeLevel) -> None:
        """``slow``: sources that can wait may use a quarter of the arena; ``paused``: nothing new of it."""
        self._level = level
        self._weigh()

    def _weigh(self) -> None:
        by_level = {"open": 0, "slow": self._slots - max(self._slots // 4, 1), "paused": self._slots}[self._level]
        self.reserve = max(by_level, self._slots // 4 if self._kept else 0)

    async def wait(self) -> None:
        """Return at the next :meth:`offer` that has something."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def offer(self, free_slots: int, *, few: bool = False) -> None:
        """Called when slots were freed. A source that waits is woken for some of them at a time, since each turn of it
        has its price; now and then for ``few``."""
        some = 1 if few else max((self._slots - self.reserve) // WAKING_PART, 1)
        if self._waiters and free_slots >= self.reserve + some:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class EngineIntake:
    """Implements ``Intake`` for one source of a dispatcher."""

    def __init__(self, dispatcher: Dispatcher, source: int, *, can_wait: bool) -> None:
        arena = dispatcher.arena
        self._dispatcher = dispatcher
        self._arena = arena
        self.source = source
        self._can_wait = can_wait
        self.layout = arena.layout
        self.memory = arena.memory
        self.headers = arena.headers
        self.clock = dispatcher.clock
        self.tally = Tally()
        self.offset = arena.offset
        self.payload = arena.payload
        self.packets = arena.packets

    def acquire(self) -> int:
        if self._can_wait and self._arena.free_slots <= self._dispatcher.room.reserve:
            return -1
        return self._arena.acquire()

    def acquire_many(self, count: int) -> Slots:
        """Up to ``count`` slots at once."""
        if self._can_wait:
            count = min(count, self._arena.free_slots - self._dispatcher.room.reserve)
        return self._arena.acquire_many(max(count, 0))

    def acquire_by_shedding(self) -> int:
        slot = self._arena.acquire()
        if slot < 0 and self._dispatcher.shed_one():
            slot = self._arena.acquire()
        return slot

    def set_key(self, slot: int, key: bytes, meta: bytes = b"") -> None:
        start = self._arena.offset(slot) + self.layout.meta_offset
        room = self.layout.meta_bytes
        stored = (key + meta)[:room]
        self.memory[start : start + len(stored)] = np.frombuffer(stored, dtype=np.uint8)
        row = self.headers[slot]
        row["key_hash"] = xxhash.xxh3_64_intdigest(key)
        row["key_bytes"] = min(len(key), room)
        row["meta_bytes"] = max(len(stored) - len(key), 0)

    def commit(self, slots: Sequence[int] | Slots) -> None:
        self._dispatcher.commit(self.source, np.asarray(slots, dtype=np.int32))

    def reject(self, slot: int, error: str) -> None:
        self._dispatcher.reject(self.source, slot, error)

    def release(self, slot: int) -> None:
        self._arena.release(slot)
        self._dispatcher.room.offer(self._arena.free_slots)

    async def wait_for_room(self) -> None:
        while self._arena.free_slots <= self._dispatcher.room.reserve:
            await self._dispatcher.room.wait()
