"""A source that gives what a list holds, and a sink that keeps what it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import DeliveryBatch, Intake
from streamspec.core.tally import Tally


class ListSource:
    """Implements ``Source`` and ``AcknowledgedSource``: one segment per ``(key, payload)``, token = position.

    Args:
        segments: what to give, in order.
        can_wait: False sheds when the arena is full.
        hold_open: do not end after the last segment; wait for :meth:`stop`.
    """

    def __init__(
        self, segments: Sequence[tuple[bytes, bytes]], *, can_wait: bool = True, hold_open: bool = False
    ) -> None:
        self.can_wait = can_wait
        self.acknowledged: list[int] = []
        self.dropped = 0
        self._segments = segments
        self._hold_open = hold_open
        self._stopping = asyncio.Event()

    async def open(self, intake: Intake) -> None:
        self._intake = intake

    async def run(self) -> None:
        for position, (key, payload) in enumerate(self._segments):
            if self._stopping.is_set():
                return
            slot = await self._slot()
            if slot < 0:
                self.dropped += 1
                continue
            self.fill(slot, position, key, payload)
            self._intake.commit([slot])
            if position % 8 == 7:
                await asyncio.sleep(0)
        if self._hold_open:
            await self._stopping.wait()

    async def _slot(self) -> int:
        if not self.can_wait:
            return self._intake.acquire_by_shedding()
        while (slot := self._intake.acquire()) < 0:
            await self._intake.wait_for_room()
        return slot

    def fill(self, slot: int, token: int, key: bytes, payload: bytes) -> None:
        """Write one segment into a slot."""
        intake = self._intake
        intake.payload(slot)[: len(payload)] = np.frombuffer(payload, dtype=np.uint8)
        table = intake.packets(slot)
        table[0] = (intake.clock.time_ns(), 0, len(payload), len(payload), 0)
        row = intake.headers[slot]
        row["length"], row["packets"], row["token"] = len(payload), 1, token
        row["arrival_ns"], row["timestamp_ns"] = intake.clock.monotonic_ns(), intake.clock.time_ns()
        row["content"] = 1
        intake.set_key(slot, key)

    async def stop(self) -> None:
        self._stopping.set()

    def acknowledge(self, tokens: npt.NDArray[np.uint64]) -> None:
        self.acknowledged.extend(tokens.tolist())


@dataclass(frozen=True)
class Kept:
    """A copy of one delivery."""

    segment_id: int
    source: str
    key: bytes
    payload: bytes
    original: bytes
    error: str
    records: tuple[tuple[str, bytes], ...]


class ListSink:
    """Implements ``Sink``; :attr:`kept` holds a copy of each delivery. ``gate`` lets a test hold it back."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    async def open(self, tally: Tally) -> None:
        self.tally = tally

    async def write(self, batch: DeliveryBatch) -> None:
        await self.gate.wait()
        for d in batch:
            records = tuple((name, bytes(lines)) for name, lines in d.records)
            kept = Kept(d.segment_id, d.source, d.key, bytes(d.payload), bytes(d.original), d.error, records)
            self.kept.append(kept)

    async def close(self) -> None:
        self.closed = True
