"""What the connections of one ``tcp`` source share: the arena, the queue for slots, the linger timer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from streamspec.core.interfaces import Bytes, Intake
from streamspec.sources import framing_kernels
from streamspec.sources.tcp_connection import Connection

Framing = Literal["length", "newline", "chunks"]
Scan = Callable[
    [Bytes, framing_kernels.Words, int, int, int, int, int, int, int, int, int],
    tuple[int, int, int],
]

SCANNERS: dict[Framing, Scan] = {
    "length": framing_kernels.scan_length_frames,
    "newline": framing_kernels.scan_newline_frames,
    "chunks": framing_kernels.scan_chunks,
}
FRAME_OVERHEAD_BYTES: dict[Framing, int] = {"length": framing_kernels.PREFIX_BYTES, "newline": 1, "chunks": 0}
"""What a frame takes in the payload beside its body."""

SCRATCH_BYTES = 4096
"""Shared place for the one read that finds no slot."""
LEAST_READ_BYTES = 4096
"""A segment with less room than this is closed rather than filled by ever smaller reads."""
SHORTEST_TIMER_SECONDS = 0.001
"""Expiries nearer to each other than this share one wake-up."""


@dataclass(frozen=True, slots=True)
class HeaderColumns:
    """Columns of the header table, looked up once."""

    length: npt.NDArray[np.uint32]
    packets: npt.NDArray[np.uint32]
    timestamp_ns: npt.NDArray[np.int64]
    arrival_ns: npt.NDArray[np.int64]
    content: npt.NDArray[np.uint16]


class Reception:
    """See the module.

    Args:
        intake: where slots come from.
        framing: how frames are told apart.
        max_frame_bytes: longest frame body; with its overhead it fits a slot.
        segment_bytes: complete frames of this size close a segment.
        linger_ns: longest time that a connection keeps a slot.

    Attributes:
        connections: all that are open.
        waiting: those that stopped reading, first come first served.
    """

    def __init__(
        self, intake: Intake, framing: Framing, *, max_frame_bytes: int, segment_bytes: int, linger_ns: int
    ) -> None:
        layout = intake.layout
        self.intake = intake
        self.clock = intake.clock
        self.tally = intake.tally
        self.memory = intake.memory
        self.words: framing_kernels.Words = intake.memory[: len(intake.memory) // 8 * 8].view(np.int64)
        self.view = memoryview(intake.memory)  # type: ignore[arg-type]
        self.columns = HeaderColumns(**{name: intake.headers[name] for name in HeaderColumns.__slots__})
        self.scan = SCANNERS[framing]
        self.max_frame_bytes = max_frame_bytes
        self.payload_bytes = layout.payload_bytes
        self.segment_bytes = min(segment_bytes, layout.payload_bytes)
        self.packets_offset = layout.packets_offset
        self.packet_capacity = layout.packet_capacity
        self.read_bytes = max_frame_bytes if framing == "chunks" else layout.payload_bytes
        self.least_read_bytes = min(LEAST_READ_BYTES, self.segment_bytes // 8)
        self.scratch = memoryview(bytearray(min(SCRATCH_BYTES, self.read_bytes)))
        self.connections: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}
        self._linger_ns = linger_ns
        self._with_slot: dict[Connection, None] = {}  # in order of opening, hence of expiry
        self._ready: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._shortage = asyncio.Event()
        self._all_gone = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    # -- connections --------------------------------------------------------------------------
    def connected(self, connection: Connection) -> None:
        """A connection was made."""
        self.connections.add(connection)

    def disconnected(self, connection: Connection) -> None:
        """A connection is gone; what it left may still wait for a slot."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_gone.set()

    def broken(self, reason: Exception) -> None:
        """A connection broke off."""
        self.tally.add("tls_failures" if isinstance(reason, ssl.SSLError) else "connections_reset")

    def close_idle(self, since_ns: int) -> None:
        """Close connections that sent nothing since ``since_ns``; those that we stopped reading are not idle."""
        for connection in list(self.connections):
            if connection.last_read_ns <= since_ns and not connection.ended and connection not in self.waiting:
                self.tally.add("idle_timeouts")
                connection.abort()

    async def finish(self) -> None:
        """Close all connections and return when they are gone and all their frames are handed in."""
        for connection in list(self.connections):
            connection.abort()
        while self.connections:
            self._all_gone.clear()
            await self._all_gone.wait()
        while self.waiting:
            await self.serve_one()
        self.commit()

    # -- slots --------------------------------------------------------------------------------
    def opened(self, connection: Connection) -> None:
        """A connection took a slot."""
        connection.opened_ns = self.clock.monotonic_ns()
        self._with_slot[connection] = None
        if self._timer is None:
            self._set_timer(self._linger_ns)

    def closed(self, connection: Connection) -> None:
        """A connection gave its slot away."""
        del self._with_slot[connection]

    def hand_in(self, slot: int) -> None:
        """Commit soon: all that is read in one turn of the event loop goes to the engine in one call."""
        if not self._ready:
            self._loop.call_soon(self.commit)
        self._ready.append(slot)

    def commit(self) -> None:
        """Commit what was handed in."""
        if self._ready:
            ready, self._ready = self._ready, []
            self.intake.commit(ready)

    def _set_timer(self, delay_ns: int) -> None:
        self._timer = self._loop.call_later(max(SHORTEST_TIMER_SECONDS, delay_ns * 1e-9), self._expire)

    def _expire(self) -> None:
        """Take slots from the connections that held them for ``linger``."""
        self._timer = None
        now_ns = self.clock.monotonic_ns()
        while self._with_slot:
            connection = next(iter(self._with_slot))
            left_ns = connection.opened_ns + self._linger_ns - now_ns
            if left_ns > 0:
                self._set_timer(left_ns)
                break
            connection.flush()
        self.commit()

    # -- shortage -----------------------------------------------------------------------------
    def wait_for_slot(self, connection: Connection) -> None:
        """Put a connection into the queue for slots."""
        self.waiting[connection] = None
        self._shortage.set()

    async def serve(self) -> None:
        """Give slots to those that wait, for ever."""
        while True:
            await self._shortage.wait()
            self._shortage.clear()
            while self.waiting:
                await self.serve_one()

    async def serve_one(self) -> None:
        """Wait for room and let the first in the queue use it."""
        await self.intake.wait_for_room()
        if self.waiting:
            connection = next(iter(self.waiting))
            if connection.pour():
                del self.waiting[connection]
                connection.carry_on()
            else:
                await asyncio.sleep(0)  # room that another took, or too little: never spin without yielding

    def close(self) -> None:
        """Let go of the arena."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.view.release()
