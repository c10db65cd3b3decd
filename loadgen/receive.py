"""A receiver for what a service's tcp and udp sinks send: messages with their time of arrival, in a file.

The file is ``LGR1`` and a newline, then per message its arrival (nanoseconds since 1970, ``u64``), its length
(``u32``) and its bytes, little-endian.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from loadgen.errors import Unreachable, UsageError
from loadgen.target import LARGEST_FRAME, Target

MAGIC = b"LGR1\n"
_RECORD = struct.Struct("<QI")
_READ_BYTES = 1 << 18
_TURN_SECONDS = 0.05


@dataclass
class Received:
    """What came."""

    messages: int = 0
    bytes: int = 0
    connections: int = 0
    broken_frames: int = 0


class Receiver:
    """Listens and writes until it is stopped.

    Args:
        target: where to listen; port 0 takes a free one, see :attr:`address`.
        out: file that is written.
    """

    def __init__(self, target: Target, out: Path) -> None:
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[socket.socket, bytearray] = {}
        self.received = Received()
        family, address = target.resolve()
        kind = socket.SOCK_DGRAM if target.scheme == "udp" else socket.SOCK_STREAM
        self._listener = socket.socket(family, kind)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self._listener.bind(address)
            if target.scheme == "tcp":
                self._listener.listen(128)
        except OSError as error:
            self._listener.close()
            raise Unreachable(f"{target}: cannot listen: {error.strerror or error}") from None
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            self._out: BinaryIO = out.open("wb")
        except OSError as error:
            self._listener.close()
            raise UsageError(f"--out {out}: cannot write: {error.strerror or error}") from None
        self._out.write(MAGIC)

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
                self._take(key.fileobj)
            self._out.flush()
            if ending and not ready:
                return self.received

    def close(self) -> None:
        """Close sockets and file."""
        for peer in list(self._buffers):
            self._drop(peer)
        self._listener.close()
        self._selector.close()
        self._out.close()

    def _take(self, peer: object) -> None:
        assert isinstance(peer, socket.socket)
        if peer is not self._listener:
            self._read(peer)
        elif self._target.scheme == "udp":
            self._datagrams()
        else:
            connection, _ = peer.accept()
            connection.setblocking(False)
            self._buffers[connection] = bytearray()
            self._selector.register(connection, selectors.EVENT_READ)
            self.received.connections += 1

    def _datagrams(self) -> None:
        for _ in range(256):
            try:
                self._write(self._listener.recv(65536))
            except BlockingIOError:
                return

    def _read(self, peer: socket.socket) -> None:
        try:
            content = peer.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        buffer = self._buffers[peer]
        buffer += content
        position = 0
        for message, end in _frames(buffer, self._target.framing):
            self._write(message)
            position = end
        del buffer[:position]
        if not content or len(buffer) > LARGEST_FRAME + 4:
            self.received.broken_frames += bool(buffer)
            self._drop(peer)

    def _write(self, message: bytes) -> None:
        self._out.write(_RECORD.pack(time.time_ns(), len(message)) + message)
        self.received.messages += 1
        self.received.bytes += len(message)

    def _drop(self, peer: socket.socket) -> None:
        self._selector.unregister(peer)
        del self._buffers[peer]
        peer.close()


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


def read_received(path: Path) -> Iterator[tuple[int, bytes]]:
    """``(arrival_ns, message)`` of a receiver's file; a torn end is left out."""
    content = path.read_bytes()
    position = len(MAGIC)
    while position + _RECORD.size <= len(content):
        arrival_ns, size = _RECORD.unpack_from(content, position)
        position += _RECORD.size
        if position + size > len(content):
            return
        yield arrival_ns, content[position : position + size]
        position += size
