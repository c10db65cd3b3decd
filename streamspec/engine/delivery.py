"""Delivery: reducers and sinks behind the order lines. A segment is finished when every sink has it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np
import structlog

from streamspec.core.errors import SinkError, StreamspecError
from streamspec.core.interfaces import Clock, DeliveryBatch, LingeringSink, Reducer, Sink, Slots
from streamspec.core.tally import Tally
from streamspec.engine import kernels
from streamspec.engine.deliveries import DeliveryView, RecordBatch, RecordDelivery, SlotBatch, SlotDelivery

_log = structlog.get_logger("streamspec.delivery")

BATCH_SEGMENTS = 1024
RETRY_FIRST_SECONDS = 0.1
RETRY_LARGEST_SECONDS = 5.0
RECORD_BACKLOG = 16
"""Batches of reducer records a sink may owe before reducers keep theirs."""


class SinkRunner:
    """One sink and the task that writes to it, in delivery order.

    Args:
        name: key under ``sinks``.
        sink: opened by :meth:`open`.
        view: makes batches of slots.
        written: called with the slots of each batch that the sink has taken.
        failed: called once when the sink is lost for good.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        view: DeliveryView,
        written: Callable[[Slots], None],
        failed: Callable[[StreamspecError], None],
    ) -> None:
        self.name = name
        self.tally = Tally()
        self._sink = sink
        self._linger_seconds = sink.linger_seconds if isinstance(sink, LingeringSink) else 0.0
        self._view = view
        self._written = written
        self._failed = failed
        self._queue: deque[Slots | RecordDelivery] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self.record_backlog = 0

    async def open(self) -> None:
        """Open the sink and start writing."""
        await self._sink.open(self.tally)
        self._task = asyncio.create_task(self._run(), name=f"sink {self.name}")

    def exchange(self, *sinks: Sink) -> None:
        """Use another sink in place of one that could not be opened."""
        (self._sink,) = sinks
        self._linger_seconds = self._sink.linger_seconds if isinstance(self._sink, LingeringSink) else 0.0

    def put(self, item: Slots | RecordDelivery) -> None:
        """Append; the slots are held until written."""
        self._queue.append(item)
        if isinstance(item, RecordDelivery):
            self.record_backlog += 1
        self._idle.clear()
        self._wake.set()

    async def idle(self) -> None:
        """Return when everything that was put is written."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop writing and close the sink; what is still queued stays unacknowledged."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._sink.close()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                if self._linger_seconds and len(self._queue) < BATCH_SEGMENTS:
                    await asyncio.sleep(self._linger_seconds)
                item = self._take()
                if isinstance(item, RecordDelivery):
                    if not await self._write(RecordBatch(item)):
                        return
                    self.record_backlog -= 1
                else:
                    if not await self._write(SlotBatch(self._view, item)):
                        return
                    self._written(item)
            self._idle.set()

    def _take(self) -> Slots | RecordDelivery:
        item = self._queue.popleft()
        if isinstance(item, RecordDelivery):
            return item
        parts = [item]
        count = len(item)
        while self._queue and count < BATCH_SEGMENTS:
            following = self._queue[0]
            if isinstance(following, RecordDelivery):
                break
            parts.append(following)
            count += len(following)
            self._queue.popleft()
        return np.concatenate(parts) if len(parts) > 1 else item

    async def _write(self, batch: DeliveryBatch) -> bool:
        delay_seconds = RETRY_FIRST_SECONDS
        while True:
            try:
                await self._sink.write(batch)
                return True
            except SinkError as error:
                self._failed(error)
                return False
            except Exception as error:
                self.tally.add("write_errors")
                _log.error("sink failed, trying again", sink=self.name, error=repr(error), delay=delay_seconds)
                await asyncio.sleep(delay_seconds)
                delay_seconds = min(2 * delay_seconds, RETRY_LARGEST_SECONDS)


class Delivery:
    """Fans finished segments out to reducers and sinks.

    Args:
        view: makes deliveries of slots.
        reducers: by stage index.
        finished: called with slots that nothing holds any more.
        clock: says when slots are released to the sinks.
    """

    def __init__(
        self,
        view: DeliveryView,
        reducers: Mapping[int, Reducer],
        finished: Callable[[Slots], None],
        clock: Clock,
    ) -> None:
        self.view = view
        self._clock = clock
        self._reducers = dict(reducers)
        self._finished = finished
        self.sinks: list[SinkRunner] = []
        self.dead_letter: SinkRunner | None = None
        self.records = Tally()
        slots = view.arena.slots
        self._good = np.empty(slots, dtype=np.int32)
        self._bad = np.empty(slots, dtype=np.int32)
        self._done = np.empty(slots, dtype=np.int32)

    def replace_reducers(self, reducers: Mapping[int, Reducer]) -> None:
        """After a reload; what the old ones held is given out first."""
        self.collect(final=True)
        self._reducers = dict(reducers)

    def deliver(self, ready: Slots) -> None:
        """Take slots in delivery order."""
        headers = self.view.arena.headers
        sinks = max(len(self.sinks), 1)
        good, bad, deltas = kernels.part(headers, ready, sinks, self._clock.monotonic_ns(), self._good, self._bad)
        if bad:
            self._bury(self._bad[:bad].copy())
        if not good:
            return
        slots = ready if not bad else self._good[:good].copy()
        if deltas and self._reducers:
            self._merge(slots)
        if not self.sinks:
            self.written(slots)
        for runner in self.sinks:
            runner.put(slots)

    def _merge(self, slots: Slots) -> None:
        carrying = slots[self.view.arena.headers["delta_bytes"][slots] > 0]
        for slot in carrying.tolist():
            for stage, content in self.view.deltas(slot):
                reducer = self._reducers.get(stage)
                if reducer is not None:
                    reducer.merge(content)

    def _bury(self, slots: Slots) -> None:
        for slot in slots.tolist():
            letter = SlotDelivery(self.view, slot)
            _log.warning("segment dead-lettered", segment=letter.segment_id, source=letter.source, error=letter.error)
        if self.dead_letter is None:
            self.written(slots)
        else:
            self.dead_letter.put(slots)

    def written(self, slots: Slots) -> None:
        """One sink has these."""
        count = kernels.drop_pending(self.view.arena.headers, slots, self._done)
        if count:
            self._finished(self._done[:count].copy())

    def collect(self, *, final: bool) -> None:
        """Give records that became due in the reducers to the sinks."""
        if not final and any(runner.record_backlog >= RECORD_BACKLOG for runner in self.sinks):
            return
        for reducer in self._reducers.values():
            for record_type, lines, count in reducer.collect(final=final):
                self.records.add(record_type, count)
                delivery = RecordDelivery(records=[(record_type, memoryview(lines))], count=count)
                for runner in self.sinks:
                    runner.put(delivery)

    def runners(self) -> list[SinkRunner]:
        """All sinks, the dead letter included."""
        return [*self.sinks, *([self.dead_letter] if self.dead_letter else [])]

    async def idle(self) -> None:
        """Return when every sink has what it was given."""
        for runner in self.runners():
            await runner.idle()
