"""Python half of gathering: slots in and out of the kernels, keys, commits, counts. Per batch and per segment."""

from __future__ import annotations

import secrets

import numpy as np

from streamspec.core.interfaces import Intake
from streamspec.sources import udp_kernels as kernels
from streamspec.sources.udp_socket import ReceiveBatch

_FOREVER_NS = 2**62
_MOST_SPARES = 32


class Gathering:
    """The open segments of one ``udp`` source.

    Args:
        intake: where slots come from and go to.
        batch: where ``recvmmsg`` leaves datagrams.
        segment_bytes: payload at which a segment is full, at most the slot's payload region.
        max_open: bound of open segments; None: a quarter of the arena's slots.
    """

    def __init__(self, intake: Intake, batch: ReceiveBatch, segment_bytes: int, max_open: int | None = None) -> None:
        slots = len(intake.headers)
        self.max_open = max(1, min(max_open or slots // 4, slots * 3 // 4))
        self._intake = intake
        self._batch = batch
        self._book = np.zeros(1, dtype=kernels.BOOK)
        self._records = kernels.new_records(self.max_open, self._book)
        self._table = kernels.new_table(self.max_open)
        self._spares = np.zeros(max(1, min(_MOST_SPARES, slots // 32)), dtype=np.int32)
        self._opened = np.zeros((batch.size, 2), dtype=np.int32)
        self._closed = np.zeros(2 * batch.size, dtype=np.int32)
        self._drops_counted = 0
        book = self._book[0]
        book["seed"] = secrets.randbits(64)
        book["segment_bytes"] = segment_bytes
        book["segment_packets"] = intake.layout.packet_capacity
        book["packets_offset"] = intake.layout.packets_offset
        book["datagram_bytes"] = batch.datagram_bytes
        book["staging_stride"] = batch.stride
        offsets = np.array([intake.offset(slot) for slot in range(slots)], dtype=np.int64)
        self._arrays = (
            *(batch.messages, batch.names, batch.controls, batch.staging),
            *(intake.memory, intake.memory.view(np.int64), intake.headers, offsets),
            *(self._records, self._table, self._spares, self._opened, self._closed, self._book),
        )
        self._closing = (intake.headers, self._records, self._table, self._closed, self._book)
        self.take(0)  # compiles, or loads from the cache, before there is traffic
        self.close_until(0)

    @property
    def open_segments(self) -> int:
        """Peers with an open segment."""
        return int(self._book["open"][0])

    @property
    def oldest_arrival_ns(self) -> int:
        """When the oldest open segment was opened, on the monotonic clock. Only while there is one."""
        return int(self._records["arrival_ns"][self._book["oldest"][0]])

    # -- datagrams ----------------------------------------------------------------------------
    def take(self, count: int) -> None:
        """Sort the first ``count`` datagrams of the batch into segments and commit those that are full."""
        now_ns, wall_ns = self._intake.clock.monotonic_ns(), self._intake.clock.time_ns()
        done, wanted, may_drop = 0, 1, False
        while True:
            done, opened, closed, spares, remarks = kernels.gather(
                *self._arrays, done, count, may_drop, now_ns, wall_ns
            )
            if opened or closed:
                self._settle(opened, closed)
            if done == count:
                break
            may_drop = not self._restock(min(wanted, count - done))
            wanted = 2 * wanted
        if spares:
            self._give_back(spares)
        if remarks:
            self._count()

    def _settle(self, opened: int, closed: int) -> None:
        """Give opened segments their keys, then commit closed ones (one may be both)."""
        book = self._book[0]
        for slot, i in self._opened[:opened].tolist():
            self._intake.set_key(slot, self._batch.peer(i))
        book["opened"] = 0
        if closed:
            book["closed"] = 0
            self._intake.commit(self._closed[:closed].copy())

    # -- slots --------------------------------------------------------------------------------
    def _restock(self, wanted: int) -> bool:
        """Acquire up to ``wanted`` slots, the first at the price of shedding; False when there is none."""
        slot = self._intake.acquire_by_shedding()
        stocked = 0
        while slot >= 0:
            self._spares[stocked] = slot
            stocked += 1
            if stocked == wanted or stocked == len(self._spares):
                break
            slot = self._intake.acquire()
        self._book["spares"] = stocked
        return stocked > 0

    def _give_back(self, spares: int) -> None:
        for slot in self._spares[:spares].tolist():
            self._intake.release(slot)
        self._book["spares"] = 0

    # -- ends ---------------------------------------------------------------------------------
    def close_until(self, until_ns: int = _FOREVER_NS) -> None:
        """Commit the segments that were opened at or before ``until_ns``; all of them by default."""
        closed = len(self._closed)
        while closed == len(self._closed):
            closed = kernels.close_until(*self._closing, until_ns)
            self._settle(0, closed)

    # -- counts -------------------------------------------------------------------------------
    def _count(self) -> None:
        book = self._book[0]
        self._intake.tally.add("arena_full_drops", int(book["homeless"]))
        self._intake.tally.add("truncated_datagrams", int(book["truncated"]))
        self.count_socket_drops(int(book["socket_drops"]))
        book["homeless"] = book["truncated"] = book["remarks"] = 0

    def count_socket_drops(self, reading: int) -> None:
        """Count what is new in the socket's drops, a number modulo 2**32. A reading that comes with a datagram
        is as old as the datagram and may lie behind one that was asked for; it counts nothing then."""
        new = (reading - self._drops_counted) & 0xFFFFFFFF
        if 0 < new < 0x80000000:
            self._intake.tally.add("socket_drops", new)
            self._drops_counted = reading
