"""Sender over UDP: one connected socket per key, many datagrams per call of ``sendmmsg(2)``.

Bodies are not copied: each datagram is a vector of its marker and its body in the pool.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from loadgen import kernels
from loadgen.batch import Grouping, Marking, marker_bytes
from loadgen.clock import Clock
from loadgen.datagrams import Headers, last_errno
from loadgen.driver import BATCH_MESSAGES
from loadgen.errors import Unreachable, UsageError
from loadgen.marker import MARKER_BYTES
from loadgen.meter import Meter
from loadgen.schedule import Block
from loadgen.target import Target

_SEND_BUFFER_BYTES = 4 << 20
_ROOM_SECONDS = 0.05
_BUSY = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)


class RefusalWatch:
    """Tells a port that stays closed from one that was not open yet.

    Attributes:
        steady_ns: refusals over that long, never ``gap_ns`` apart, mean that nobody listens.
    """

    def __init__(self, steady_ns: int = 3_000_000_000, gap_ns: int = 2_000_000_000) -> None:
        self._steady_ns = steady_ns
        self._gap_ns = gap_ns
        self._first_ns = self._last_ns = -gap_ns - 1

    def note(self, now_ns: int) -> None:
        """A send was refused."""
        if now_ns - self._last_ns > self._gap_ns:
            self._first_ns = now_ns
        self._last_ns = now_ns

    def steady(self) -> bool:
        """Refused for so long that going on makes no sense."""
        return self._last_ns - self._first_ns >= self._steady_ns

    def lately(self, now_ns: int) -> bool:
        """Refused at the end of the run."""
        return now_ns - self._last_ns <= self._gap_ns


class UdpSender:
    """Implements ``Sender``. What it takes is in the kernel when ``take`` returns, unless the run is stopped.

    Attributes:
        sent: int64 per key, datagrams that the kernel took.
    """

    waiting = False

    def __init__(
        self,
        target: Target,
        keys: int,
        meter: Meter,
        clock: Clock,
        *,
        marking: Marking | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._target = target
        self._meter = meter
        self._clock = clock
        self._marking = marking
        self._stopped = stopped
        self._watch = RefusalWatch()
        self._start_ns = 0
        self.sent = np.zeros(keys, dtype=np.int64)
        self._grouping = Grouping(keys, BATCH_MESSAGES)
        self._step = 1 if marking is None else 2
        self._lay_out_memory()
        self._sockets: list[socket.socket] = []
        self._connect(keys)

    def _lay_out_memory(self) -> None:
        self._markers = np.zeros(BATCH_MESSAGES * MARKER_BYTES, dtype=np.uint8)
        self._positions = np.arange(BATCH_MESSAGES, dtype=np.int64) * MARKER_BYTES
        self._headers = Headers(BATCH_MESSAGES, self._step)
        if self._step == 2:
            self._headers.vectors[::2, 0] = self._markers.ctypes.data + self._positions
            self._headers.vectors[::2, 1] = MARKER_BYTES

    def _connect(self, keys: int) -> None:
        family, address = self._target.resolve()
        try:
            for _ in range(keys):
                peer = socket.socket(family, socket.SOCK_DGRAM)
                self._sockets.append(peer)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                peer.connect(address)
        except OSError as error:
            self.close()
            raise _failure(self._target, error) from None

    def begin(self, start_ns: int, epoch_ns: int) -> None:
        """See ``Sender``."""
        self._start_ns = start_ns
        if self._marking is not None:
            self._marking.epoch_ns = epoch_ns

    def take(self, block: Block, first: int, last: int) -> int:
        """See ``Sender``."""
        last = min(last, first + BATCH_MESSAGES)
        groups = self._grouping.group(block, first, last)
        rows = self._grouping.order[: last - first]
        if self._marking is not None:
            self._marking.stamp(block, rows, self._markers, self._positions)
        base = block.pool.memory.ctypes.data
        kernels.point(block.messages, rows, len(rows), block.pool.columns, base, self._headers.vectors, self._step)
        for key, start, end in groups:
            self._send(block, rows, key, start, end)
        return last - first

    def _send(self, block: Block, rows: npt.NDArray[np.int64], key: int, start: int, end: int) -> None:
        descriptor = self._sockets[key].fileno()
        position = start
        while position < end:
            done = self._headers.send(descriptor, position, end)
            if done > 0:
                self._count(block, rows, key, position, position + done)
                position += done
            elif not self._recover(descriptor, last_errno()):
                return

    def _count(self, block: Block, rows: npt.NDArray[np.int64], key: int, start: int, end: int) -> None:
        now_ns = self._clock.monotonic_ns() - self._start_ns
        size = int(block.pool.lengths[block.messages[rows[start:end]]].sum())
        size += (end - start) * marker_bytes(self._marking)
        self._meter.note_sent(block.times_ns, rows, start, end, now_ns, size)
        self.sent[key] += end - start

    def _recover(self, descriptor: int, code: int) -> bool:
        """Deal with a failed call; false when the run was stopped meanwhile."""
        if code == errno.ECONNREFUSED:
            # The refusal is of an earlier datagram; reading it cleared it, so this one is sent again.
            self._meter.refused += 1
            self._watch.note(self._clock.monotonic_ns())
            if self._watch.steady():
                raise Unreachable(f"{self._target}: nobody listens there (port unreachable)")
        elif code in _BUSY:
            self._meter.blocked += 1
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll(1000 * _ROOM_SECONDS)
        elif code == errno.EMSGSIZE:
            raise UsageError(f"{self._target}: a message is too long for a datagram there; lower the size's max")
        elif code != errno.EINTR:
            raise _failure(self._target, OSError(code, os.strerror(code)))
        return not self._stopped()

    def warm(self, block: Block) -> None:
        """See ``Sender``."""
        self.take(block, 0, 0)
        self._meter.note_sent(block.times_ns, self._grouping.order, 0, 0, 0, 0)

    def flush(self) -> None:
        """Nothing waits."""

    def wait(self, seconds: float) -> None:
        """Nothing waits."""

    def finish(self, seconds: float) -> None:
        """Raise Unreachable when the destination was refusing at the end of the run."""
        if self._watch.lately(self._clock.monotonic_ns()):
            raise Unreachable(f"{self._target}: nobody listens there any more (port unreachable)")

    def close(self) -> None:
        """Close the sockets."""
        for peer in self._sockets:
            peer.close()


def _failure(target: Target, error: OSError) -> Unreachable:
    return Unreachable(f"{target}: {error.strerror or error}")
