"""One connection of the ``tcp`` source: received straight into slots, framed by a kernel.

``get_buffer`` hands out the rest of the open slot's payload, so the kernel's copy into the arena is the only
one. The segment is closed behind its last complete frame; the bytes of the frame that begins there (the
*tail*) go to the start of the next slot. A connection holds a slot only while bytes arrive: after ``linger``
its complete frames are committed and the tail is kept in private memory (the *stash*, smaller than one
frame), so that idle and half-open connections cannot hold the arena. A stash is also what a connection falls
back to when no slot is free; then reading stops until there is one, and TCP slows the peer down.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from streamspec.core.segment import CONTENT_MESSAGES
from streamspec.sources.framing_kernels import TOO_LARGE

if TYPE_CHECKING:
    from streamspec.sources.tcp_reception import Reception

NO_SLOT = -1


class Connection(asyncio.BufferedProtocol):
    """The protocol of one peer. All times are of the monotonic clock.

    Args:
        reception: what all connections of the source share.
        key: stream key, ``addr:port`` of the peer.

    Attributes:
        opened_ns: when the present slot was taken; its linger counts from here.
        last_read_ns: when bytes last arrived, or reading was resumed.
    """

    def __init__(self, reception: Reception, key: bytes) -> None:
        self.reception = reception
        self.key = key
        self.opened_ns = 0
        self.last_read_ns = 0
        self.ended = False
        self._transport: asyncio.Transport | None = None
        self._stash = bytearray()
        self._slot = NO_SLOT
        self._base = 0  # of the slot's payload in the arena
        self._room = 0  # payload bytes that the segment may have
        self._filled = 0  # bytes received into the slot
        self._position = 0  # first byte behind the last complete frame
        self._searched = 0  # bytes before this hold no end of frame
        self._rows = 0
        self._arrival_ns = 0  # when the first byte in the slot arrived
        self._tail_since_ns = 0  # when the first byte of the tail arrived

    # -- protocol -----------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is one without saying so
        self.last_read_ns = self.reception.clock.monotonic_ns()
        self.reception.connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        reception = self.reception
        if self._slot == NO_SLOT and (self.ended or reception.waiting or not self._open_slot()):
            return reception.scratch
        start = self._base + self._filled
        return reception.view[start : min(start + reception.read_bytes, self._base + self._room)]

    def buffer_updated(self, nbytes: int) -> None:
        if self.ended:
            return
        reception = self.reception
        now_ns = self.last_read_ns = reception.clock.monotonic_ns()
        if self._slot == NO_SLOT:
            if not self._stash:
                self._tail_since_ns = now_ns
            self._stash += reception.scratch[:nbytes]
            self._wait()
            return
        if not self._filled:
            self._arrival_ns = now_ns
        if self._filled == self._position:
            self._tail_since_ns = now_ns
        self._filled += nbytes
        self._advance(now_ns)

    def eof_received(self) -> bool:
        return False  # close; what is left is settled in connection_lost

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not self.ended:
            self.reception.broken(exc)
        self.end()
        self.reception.disconnected(self)

    # -- life ---------------------------------------------------------------------------------
    @property
    def open(self) -> bool:
        """Whether it holds a slot."""
        return self._slot != NO_SLOT

    def end(self) -> None:
        """No more bytes will come: commit what is complete and count what is not. What waits for a slot is
        settled when it had one."""
        if not self.ended:
            self.ended = True
            if self not in self.reception.waiting:
                self._settle()

    def abort(self) -> None:
        """:meth:`end`, and close the connection."""
        self.end()
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Linger has passed: hand in the complete frames and let go of the slot; the tail goes to the stash."""
        tail = self.reception.view[self._base + self._position : self._base + self._filled]
        self._stash += tail
        self._close_segment()

    def carry_on(self) -> None:
        """What had to wait lies in slots now: read on, or settle if the connection has ended meanwhile."""
        transport = self._transport
        if self.ended:
            self._settle()
        elif transport is not None and not transport.is_closing():
            self.last_read_ns = self.reception.clock.monotonic_ns()
            transport.resume_reading()

    def pour(self) -> bool:
        """Move the stash into slots; False when there are not enough yet."""
        view = self.reception.view
        while self._stash:
            if self._slot == NO_SLOT and not self._acquire(self._tail_since_ns):
                return False
            size = min(len(self._stash), self._room - self._filled)
            start = self._base + self._filled
            view[start : start + size] = self._stash[:size]
            del self._stash[:size]
            self._filled += size
            self._advance(self._tail_since_ns)
        return True

    def _settle(self) -> None:
        if self._stash or self._filled > self._position:
            self.reception.tally.add("incomplete_frames")
            self._stash.clear()
        if self._slot != NO_SLOT:
            self._close_segment()

    def _wait(self) -> None:
        """Stop reading until the stash could be moved into slots."""
        if self not in self.reception.waiting:
            self.reception.wait_for_slot(self)
            transport = self._transport
            if transport is not None and not transport.is_closing():
                transport.pause_reading()

    # -- segments -----------------------------------------------------------------------------
    def _open_slot(self) -> bool:
        if self._stash:
            return self.pour() and self._slot != NO_SLOT
        return self._acquire(0)

    def _acquire(self, arrival_ns: int) -> bool:
        """Open an empty slot for a segment whose first byte arrived at ``arrival_ns``."""
        reception = self.reception
        slot = reception.intake.acquire()
        if slot < 0:
            return False
        reception.intake.set_key(slot, self.key)
        self._slot = slot
        self._base = reception.intake.offset(slot)
        self._room = reception.segment_bytes
        self._arrival_ns = arrival_ns
        reception.opened(self)
        return True

    def _advance(self, now_ns: int) -> None:
        """Frame what was received, and close segments that are full."""
        reception = self.reception
        wall_ns = reception.clock.time_ns()
        while True:
            rows = self._rows
            self._rows, self._position, needed = reception.scan(
                reception.memory,
                reception.words,
                self._base,
                (self._base + reception.packets_offset) >> 3,
                reception.packet_capacity,
                self._position,
                self._searched,
                self._filled,
                rows,
                reception.max_frame_bytes,
                wall_ns,
            )
            if self._rows != rows:
                self._tail_since_ns = now_ns
            table_full = self._rows == reception.packet_capacity
            self._searched = self._position if table_full else self._filled
            if needed == TOO_LARGE:
                self._refuse()
                return
            if not (table_full or self._lacks_room(needed)) or not self._roll(table_full):
                return

    def _lacks_room(self, needed: int) -> bool:
        """Whether the frame that begins now must go to the next segment. One that comes first stays, and its
        segment grows: how far a line goes is not known, so in steps of two."""
        reception = self.reception
        if self._rows:
            return self._position + needed > self._room or self._room - self._filled < reception.least_read_bytes
        if needed > self._room:
            self._room = min(reception.payload_bytes, max(needed, 2 * self._room))
        return False

    def _roll(self, search_again: bool) -> bool:
        """Close the segment and take its tail to the next slot; True when there is a tail in a slot."""
        reception = self.reception
        tail = reception.view[self._base + self._position : self._base + self._filled]
        self._close_segment()
        if not len(tail):
            return False
        if reception.waiting or not self._acquire(self._tail_since_ns):
            self._stash[:0] = tail
            self._wait()
            return False
        self._filled = len(tail)
        self._room = max(self._room, self._filled)
        self._searched = 0 if search_again else self._filled
        reception.view[self._base : self._base + self._filled] = tail
        return True

    def _refuse(self) -> None:
        """The peer sends a frame above the limit: what came before it counts, the rest is not read."""
        self.ended = True
        self.reception.tally.add("frame_too_large")
        self._stash.clear()
        self._close_segment()
        if self._transport is not None:
            self._transport.abort()

    def _close_segment(self) -> None:
        """Give the slot away: to the engine with its frames, or back when it holds none."""
        reception, slot = self.reception, self._slot
        reception.closed(self)
        self._slot = NO_SLOT
        if not self._rows:
            reception.intake.release(slot)
        else:
            first_word = (self._base + reception.packets_offset) >> 3
            columns = reception.columns
            columns.length[slot] = self._position
            columns.packets[slot] = self._rows
            columns.timestamp_ns[slot] = reception.words[first_word]
            columns.arrival_ns[slot] = self._arrival_ns
            columns.content[slot] = CONTENT_MESSAGES
            reception.hand_in(slot)
        self._filled = self._position = self._searched = self._rows = 0
