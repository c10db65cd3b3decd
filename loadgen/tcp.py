"""Sender over TCP or TLS: one connection per key, frames gathered into big writes.

A connection whose peer does not read keeps frames in memory, up to ``PENDING_BYTES``; then nothing more is
taken at all until it moves. Messages that wait get later, and their markers keep the intended time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadgen import kernels
from loadgen.batch import Grouping, Marking, marker_bytes
from loadgen.clock import Clock
from loadgen.driver import BATCH_MESSAGES
from loadgen.errors import Unreachable
from loadgen.meter import Meter
from loadgen.schedule import Block
from loadgen.target import Target

PENDING_BYTES = 4 << 20
CONNECT_SECONDS = 5.0
PEER_END_SECONDS = 2.0
_WRITE_BYTES = 256 * 1024
_LENGTH_BYTES = 4
_LATER = (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError)


@dataclass
class _Chunk:
    """Frames of one batch for one connection; ``ends`` says where in ``memory`` each frame ends."""

    block: Block
    rows: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    memory: memoryview
    written: int = 0
    counted: int = 0
    blocked: bool = False


class _Connection:
    """A connected socket and what it still has to write."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer
        self.chunks: deque[_Chunk] = deque()
        self.pending_bytes = 0

    def write(self, count: Callable[[_Chunk, int], None], meter: Meter) -> None:
        """Write until nothing is left or the kernel has no room."""
        while self.chunks:
            chunk = self.chunks[0]
            offered = min(len(chunk.memory) - chunk.written, _WRITE_BYTES)
            try:
                done = self.peer.send(chunk.memory[chunk.written : chunk.written + offered])
            except _LATER:
                meter.blocked += not chunk.blocked
                chunk.blocked = True
                return
            chunk.written += done
            self.pending_bytes -= done
            whole = int(np.searchsorted(chunk.ends, chunk.written, side="right"))
            if whole > chunk.counted:
                count(chunk, whole)
                chunk.counted = whole
            if chunk.written == len(chunk.memory):
                self.chunks.popleft()


class TcpSender:
    """Implements ``Sender``.

    Attributes:
        sent: int64 per key, messages that the kernel took to their last byte.
    """

    def __init__(
        self,
        target: Target,
        keys: int,
        meter: Meter,
        clock: Clock,
        *,
        marking: Marking | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target = target
        self._meter = meter
        self._clock = clock
        self._marking = marking
        self._before = _LENGTH_BYTES if target.framing == "length" else 0
        self._after = 1 if target.framing == "newline" else 0
        self._start_ns = 0
        self.sent = np.zeros(keys, dtype=np.int64)
        self._grouping = Grouping(keys, BATCH_MESSAGES)
        self._connections: list[_Connection] = []
        self._behind: set[int] = set()
        self._connect(keys, tls)

    def _connect(self, keys: int, tls: ssl.SSLContext | None) -> None:
        _, address = self._target.resolve()
        try:
            for _ in range(keys):
                peer = socket.create_connection((str(address[0]), int(address[1])), CONNECT_SECONDS)
                self._connections.append(_Connection(peer))
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if tls is not None:
                    peer = tls.wrap_socket(peer, server_hostname=self._target.host)
                    self._connections[-1].peer = peer
                peer.setblocking(False)
        except OSError as error:
            self.close()
            raise Unreachable(f"{self._target}: cannot connect: {error.strerror or error}") from None

    @property
    def waiting(self) -> bool:
        """See ``Sender``."""
        return bool(self._behind)

    def begin(self, start_ns: int, epoch_ns: int) -> None:
        """See ``Sender``."""
        self._start_ns = start_ns
        if self._marking is not None:
            self._marking.epoch_ns = epoch_ns

    def take(self, block: Block, first: int, last: int) -> int:
        """See ``Sender``."""
        last = min(last, first + BATCH_MESSAGES, first + self._room(block, first, last))
        if last <= first:
            return 0
        for key, start, end in self._grouping.group(block, first, last):
            connection = self._connections[key]
            chunk = self._frame(block, self._grouping.order[start:end].copy())
            connection.chunks.append(chunk)
            connection.pending_bytes += len(chunk.memory)
            self._write(key, connection)
        return last - first

    def _room(self, block: Block, first: int, last: int) -> int:
        """How many messages may be taken so that no connection holds much more than its limit."""
        fullest = max((self._connections[key].pending_bytes for key in self._behind), default=0)
        sizes = block.pool.lengths[block.messages[first:last]]
        room = int(np.searchsorted(np.cumsum(sizes), PENDING_BYTES - fullest, side="left"))
        return room if fullest else max(1, room)

    def _frame(self, block: Block, rows: npt.NDArray[np.int64]) -> _Chunk:
        marker = marker_bytes(self._marking)
        ends = np.empty(len(rows), dtype=np.int64)
        lengths = block.pool.lengths
        total = kernels.lay_out(block.messages, rows, len(rows), lengths, self._before, marker, self._after, ends)
        memory = np.empty(total, dtype=np.uint8)
        positions = np.empty(len(rows), dtype=np.int64)
        kernels.frame(
            block.messages,
            rows,
            len(rows),
            block.pool.columns,
            block.pool.memory,
            ends,
            self._before,
            marker,
            self._after,
            memory,
            positions,
        )
        if self._marking is not None:
            self._marking.stamp(block, rows, memory, positions)
        return _Chunk(block, rows, ends, memory.data)

    def _write(self, key: int, connection: _Connection) -> None:
        try:
            connection.write(lambda chunk, whole: self._count(key, chunk, whole), self._meter)
        except OSError as error:
            raise Unreachable(
                f"{self._target}: connection {key} broke after {self.sent[key]} messages: {error.strerror or error}"
            ) from None
        if connection.chunks:
            self._behind.add(key)
        else:
            self._behind.discard(key)

    def _count(self, key: int, chunk: _Chunk, whole: int) -> None:
        now_ns = self._clock.monotonic_ns() - self._start_ns
        start = int(chunk.ends[chunk.counted - 1]) if chunk.counted else 0
        around = self._before + self._after
        size = int(chunk.ends[whole - 1]) - start - around * (whole - chunk.counted)
        self._meter.note_sent(chunk.block.times_ns, chunk.rows, chunk.counted, whole, now_ns, size)
        self.sent[key] += whole - chunk.counted

    def warm(self, block: Block) -> None:
        """See ``Sender``."""
        self._grouping.group(block, 0, 0)
        self._frame(block, np.empty(0, dtype=np.int64))
        self._meter.note_sent(block.times_ns, self._grouping.order, 0, 0, 0, 0)

    def flush(self) -> None:
        """See ``Sender``."""
        for key in tuple(self._behind):
            self._write(key, self._connections[key])

    def wait(self, seconds: float) -> None:
        """See ``Sender``. Below a millisecond, which poll cannot wait, it just rests."""
        if seconds < 1e-3:
            self._clock.sleep_until(self._clock.monotonic_ns() + round(seconds * 1e9))
            return
        poll = select.poll()
        for key in self._behind:
            poll.register(self._connections[key].peer, select.POLLOUT)
        poll.poll(int(1000 * seconds))

    def finish(self, seconds: float) -> None:
        """Write what is left, for at most ``seconds``, and end the streams; then wait shortly for the peers to
        end theirs, because closing with unread input would reset a connection and lose what is under way."""
        end_ns = self._clock.monotonic_ns() + round(seconds * 1e9)
        while self.waiting and (left := (end_ns - self._clock.monotonic_ns()) / 1e9) > 0:
            self.wait(min(left, 0.05))
            self.flush()
        ended = [c.peer for key, c in enumerate(self._connections) if key not in self._behind]
        for peer in ended:
            _end_stream(peer)
        end_seconds = time.monotonic() + PEER_END_SECONDS
        for peer in ended:
            _await_end(peer, end_seconds)

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.peer.close()


def _end_stream(peer: socket.socket) -> None:
    """Say that nothing follows: TLS's close_notify first, then FIN."""
    if isinstance(peer, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):  # it then wants to wait for the peer's close_notify
            peer.unwrap()
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_WR)


def _await_end(peer: socket.socket, end_seconds: float) -> None:
    """Read and forget until the peer ends its stream too, at the latest at ``end_seconds`` (monotonic)."""
    with contextlib.suppress(OSError):
        while (left := end_seconds - time.monotonic()) > 0:
            peer.settimeout(left)
            if not peer.recv(65536):
                return
