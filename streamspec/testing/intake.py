"""An intake on a real arena that keeps what a source commits, for tests of sources without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from streamspec.core.interfaces import Bytes, Clock, Rows, Slots
from streamspec.core.segment import PACKET, SlotLayout
from streamspec.core.tally import Tally
from streamspec.engine.arena import Arena
from streamspec.testing.clock import ManualClock

SMALL_LAYOUT = SlotLayout(payload_bytes=64 * 1024, packet_capacity=2048, meta_bytes=1024, output_bytes=64 * 1024)


@dataclass(frozen=True)
class Committed:
    """A copy of one committed segment."""

    header: np.void
    payload: bytes
    packets: Rows
    key: bytes
    meta: bytes

    def messages(self) -> list[bytes]:
        """The payload cut by the packet table."""
        return [self.payload[p["offset"] : p["offset"] + p["captured_bytes"]] for p in self.packets]


class RecordingIntake:
    """Implements ``Intake``; ``committed`` holds a copy of each segment, slots are freed at once
    unless ``hold`` is true (then :meth:`free_held` gives them back, as a stuck pipeline would)."""

    def __init__(
        self, *, slots: int = 64, layout: SlotLayout = SMALL_LAYOUT, clock: Clock | None = None, hold: bool = False
    ) -> None:
        self.arena = Arena(layout, slots)
        self.layout = layout
        self.memory = self.arena.memory
        self.headers = self.arena.headers
        self.clock: Clock = clock or ManualClock()
        self.tally = Tally()
        self.hold = hold
        self.committed: list[Committed] = []
        self.rejected: list[tuple[Committed, str]] = []
        self.held: list[int] = []
        self.shed_segments = 0
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    def acquire(self) -> int:
        return self.arena.acquire()

    def acquire_many(self, count: int) -> Slots:
        return self.arena.acquire_many(count)

    def acquire_by_shedding(self) -> int:
        slot = self.arena.acquire()
        if slot < 0 and self.held:
            self.shed_segments += 1
            self.release(self.held.pop(0))
            slot = self.arena.acquire()
        return slot

    def offset(self, slot: int) -> int:
        return self.arena.offset(slot)

    def payload(self, slot: int) -> Bytes:
        return self.arena.payload(slot)

    def packets(self, slot: int) -> Rows:
        return self.arena.packets(slot)

    def set_key(self, slot: int, key: bytes, meta: bytes = b"") -> None:
        region = self.arena.meta(slot)
        region[: len(key) + len(meta)] = np.frombuffer(key + meta, dtype=np.uint8)
        row = self.headers[slot : slot + 1]
        row["key_hash"] = xxhash.xxh3_64_intdigest(key)
        row["key_bytes"] = len(key)
        row["meta_bytes"] = len(meta)

    def commit(self, slots: Sequence[int] | Slots) -> None:
        for slot in map(int, slots):
            header = self.headers[slot].copy()
            key_end = int(header["key_bytes"])
            meta = self.arena.meta(slot).tobytes()
            self.committed.append(
                Committed(
                    header=header,
                    payload=self.arena.payload(slot)[: header["length"]].tobytes(),
                    packets=self.arena.packets(slot)[: header["packets"]].copy().view(PACKET),
                    key=meta[:key_end],
                    meta=meta[key_end : key_end + int(header["meta_bytes"])],
                )
            )
            if self.hold:
                self.held.append(slot)
            else:
                self.release(slot)
        self._news.set()

    def reject(self, slot: int, error: str) -> None:
        self.commit([slot])
        self.rejected.append((self.committed.pop(), error))

    def release(self, slot: int) -> None:
        self.arena.release(slot)
        self._room.set()

    async def wait_for_room(self) -> None:
        while not self.arena.free_slots:
            self._room.clear()
            await self._room.wait()

    def free_held(self) -> None:
        """Finish everything that was held."""
        while self.held:
            self.release(self.held.pop())

    async def wait_for(self, segments: int, timeout_seconds: float = 5.0) -> list[Committed]:
        """Return once that many segments were committed in all."""
        async with asyncio.timeout(timeout_seconds):
            while len(self.committed) < segments:
                self._news.clear()
                await self._news.wait()
        return self.committed

    async def wait_for_packets(self, packets: int, timeout_seconds: float = 5.0) -> list[Committed]:
        """Return once segments with that many packets in all were committed."""
        async with asyncio.timeout(timeout_seconds):
            while sum(len(c.packets) for c in self.committed) < packets:
                self._news.clear()
                await self._news.wait()
        return self.committed

    def close(self) -> None:
        """Unmap the arena."""
        del self.memory, self.headers
        self.arena.close()
