"""A receiver for what a service's tcp and udp sinks send: messages with their time of arrival, in a file
(:mod:`loadgen.records`)."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loadgen import kernels
from loadgen.datagrams import Headers
from loadgen.errors import Unreachable, UsageError
from loadgen.records import HEAD_BYTES, MAGIC, write_record
from loadgen.target import LARGEST_FRAME, Target

_READ_BYTES = 1 << 18
_TURN_SECONDS = 0.05
_DATAGRAMS, _DATAGRAM_BYTES = 128, 1 << 16
_RECEIVE_BUFFER_BYTES = 64 << 20
_SO_RCVBUFFORCE, _SO_MEMINFO, _MEMINFO_DROPS = 33, 55, 8
"""Of Linux; the ``socket`` module does not name them."""


@dataclass
class Received:
    """What came.

    Attributes:
        broken_frames: connections that ended inside a frame or announced one that is too long.
        kernel_drops: datagrams that the kernel dropped because this receiver was too slow.
    """

    messages: int = 0
    bytes: int = 0
    connections: int = 0
    broken_frames: int = 0
    kernel_drops: int = 0


class _Connection:
    """An accepted connection and the start of a frame that is not whole yet."""

    def __init__(self, peer: socket.socket, number: int) -> None:
        self.peer = peer
        self.number = number
        self.buffer = bytearray()


class Receiver:
    """Listens and writes until it is stopped.

    Args:
        target: where to listen; port 0 takes a free one, see :attr:`address`.
        out: file that is written.

    Raises:
        Unreachable: the address cannot be listened at.
        UsageError: the file cannot be written.
    """

    def __init__(self, target: Target, out: Path) -> None:
        self._target = target
        self.received = Received()
        self._connections: dict[int, _Connection] = {}
        try:
            self._out: BinaryIO = out.open("wb")
        except OSError as error:
            raise UsageError(f"--out {out}: cannot write: {error.strerror or error}") from None
        try:
            self._listener = _listen(target)
        except BaseException:
            self._out.close()
            raise
        self._out.write(MAGIC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        if target.scheme == "udp":
            self._memory = np.empty(_DATAGRAMS * _DATAGRAM_BYTES, dtype=np.uint8)
            self._packed = np.empty(_DATAGRAMS * (_DATAGRAM_BYTES + HEAD_BYTES), dtype=np.uint8)
            self._headers = Headers(_DATAGRAMS, 1)
            self._headers.vectors[:, 0] = self._memory.ctypes.data + _DATAGRAM_BYTES * np.arange(_DATAGRAMS)
            self._headers.vectors[:, 1] = _DATAGRAM_BYTES
            self._pack(0)  # loads the kernel while nobody waits for it

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens at."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def run(self, stopped: Callable[[], bool]) -> Received:
        """Receive until ``stopped()``; then what already waits in the kernel is taken too."""
        while True:
            ending = stopped()
            ready = self._selector.select(0 if ending else _TURN_SECONDS)
            for key, _ in ready:
                self._take(key.fd)
            if ready:
                self._out.flush()
            elif ending:
                if self._target.scheme == "udp":
                    self.received.kernel_drops = _kernel_drops(self._listener)
                return self.received

    def close(self) -> None:
        """Close sockets and file."""
        for descriptor in list(self._connections):
            self._drop(descriptor)
        self._selector.close()
        self._listener.close()
        self._out.close()

    def _take(self, descriptor: int) -> None:
        if descriptor in self._connections:
            self._read(self._connections[descriptor])
        elif self._target.scheme == "udp":
            self._datagrams()
        else:
            peer, _ = self._listener.accept()
            peer.setblocking(False)
            self._connections[peer.fileno()] = _Connection(peer, self.received.connections)
            self._selector.register(peer, selectors.EVENT_READ)
            self.received.connections += 1

    def _datagrams(self) -> None:
        while (count := self._headers.receive(self._listener.fileno())) > 0:
            self._out.write(self._pack(count))
            self.received.messages += count
            self.received.bytes += int(self._headers.done_bytes[:count].sum())
            if count < _DATAGRAMS:
                return

    def _pack(self, count: int) -> memoryview:
        lengths = self._headers.done_bytes
        size = kernels.pack_records(self._memory, _DATAGRAM_BYTES, lengths, count, time.time_ns(), self._packed)
        return self._packed[:size].data

    def _read(self, connection: _Connection) -> None:
        try:
            content = connection.peer.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        buffer, arrival_ns = connection.buffer, time.time_ns()
        buffer += content
        position = 0
        for message, end in _frames(buffer, self._target.framing):
            self._out.write(write_record(arrival_ns, connection.number, message))
            self.received.messages += 1
            self.received.bytes += len(message)
            position = end
        del buffer[:position]
        if not content or _too_long(buffer, self._target.framing):
            self.received.broken_frames += bool(buffer)
            self._drop(connection.peer.fileno())

    def _drop(self, descriptor: int) -> None:
        connection = self._connections.pop(descriptor)
        self._selector.unregister(connection.peer)
        connection.peer.close()


def _listen(target: Target) -> socket.socket:
    family, address = target.resolve()
    listener = socket.socket(family, socket.SOCK_DGRAM if target.scheme == "udp" else socket.SOCK_STREAM)
    try:
        if target.scheme == "udp":
            _enlarge(listener)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if target.scheme == "tcp":
            listener.listen(128)
    except OSError as error:
        listener.close()
        raise Unreachable(f"{target}: cannot listen: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def _enlarge(listener: socket.socket) -> None:
    """The largest receive buffer there is: beyond the system's limit where that is allowed (CAP_NET_ADMIN)."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def _kernel_drops(listener: socket.socket) -> int:
    counts = listener.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    words = struct.unpack(f"={len(counts) // 4}I", counts)
    return words[_MEMINFO_DROPS] if len(words) > _MEMINFO_DROPS else 0


def _too_long(buffer: bytearray, framing: str) -> bool:
    announced = int.from_bytes(buffer[:4], "big") if framing == "length" and len(buffer) >= 4 else len(buffer)
    return announced > LARGEST_FRAME


def _frames(buffer: bytearray, framing: str) -> Iterator[tuple[bytes, int]]:
    """Whole messages at the front of ``buffer``, each with the number of bytes up to its end."""
    position = 0
    while True:
        if framing == "newline":
            end = buffer.find(b"\n", position)
            if end < 0:
                return
            message = bytes(buffer[position:end])
            position = end + 1
        else:
            size = int.from_bytes(buffer[position : position + 4], "big")
            if len(buffer) < position + 4 + size or len(buffer) < position + 4:
                return
            message = bytes(buffer[position + 4 : position + 4 + size])
            position += 4 + size
        yield message, position
