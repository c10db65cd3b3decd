"""One connection of the ``tcp`` sink: bytes go in and what the peer's kernel has acknowledged is known.

Plain sockets without a transport between: what ``send`` took is in the kernel's queue, whose length
(``SIOCOUTQ``, see ``tcp(7)``: bytes not yet acknowledged) then tells what is underway.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass

from streamspec.sinks.egress import readable, retag, set_priority, writable

READ_BYTES = 65536
MOST_READS = 16
"""What a peer says is thrown away; so much at a time."""
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 30, 10, 3
"""A peer that vanished while we had nothing to say is noticed after a minute."""
POLL_TURNS = 16
"""Turns of the event loop in which the queue is looked at without a pause: on one host they suffice."""
SHORTEST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.001, 0.02
"""Pauses between the looks after those. The event loop's own timers go by the millisecond."""


class PeerClosed(ConnectionError):
    """The peer ended the connection in order.

    Attributes:
        all_read: everything that we sent was read by the peer's process. Linux resets a connection that is
            closed with unread bytes in its receive queue, so an orderly end after all was acknowledged says so.
    """

    def __init__(self, *, all_read: bool) -> None:
        super().__init__("the peer closed the connection")
        self.all_read = all_read


@dataclass(frozen=True, slots=True)
class Destination:
    """Where to connect, and how.

    Attributes:
        tls: None for plain TCP.
        peer_timeout_seconds: unacknowledged for so long, the kernel gives the connection up (TCP_USER_TIMEOUT).
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str
    priority_class: str | None
    peer_timeout_seconds: float
    where: str


class Connection:
    """A live connection; made by :func:`connect`.

    Attributes:
        sent_bytes: accepted by our kernel so far, before encryption.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._encrypted = isinstance(connected, ssl.SSLSocket)
        self.sent_bytes = 0

    async def send(self, content: memoryview) -> None:
        """Return when all of it is in the kernel's queue. Raises OSError when the connection is broken."""
        while len(content):
            try:
                sent = self._socket.send(content)
            except (BlockingIOError, ssl.SSLWantWriteError):
                await writable(self._socket)
                continue
            except ssl.SSLWantReadError:
                await readable(self._socket)
                continue
            self.sent_bytes += sent
            content = content[sent:]

    def tag(self, priority_class: str | None, where: str) -> None:
        """Another class of traffic control from now on; see :func:`~streamspec.sinks.egress.retag`."""
        retag(self._socket, priority_class, where)

    def underway_bytes(self) -> int:
        """Not yet acknowledged by the peer's kernel. Encrypted bytes count as they are, so that it is
        never too little."""
        answer = bytearray(4)
        fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, answer)
        return int(struct.unpack("i", answer)[0])

    def check(self) -> None:
        """Take what the peer said and throw it away.

        Raises:
            PeerClosed: it ended the connection.
            OSError: it is broken.
        """
        underway_bytes = self.underway_bytes()
        for _ in range(MOST_READS):
            try:
                said = self._socket.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not said:
                # TLS may say goodbye on a socket that is about to be reset: only TCP's own end is trusted.
                raise PeerClosed(all_read=not underway_bytes and not self._encrypted)

    async def acknowledged(self) -> None:
        """Return when the peer's kernel has everything. Raises as :meth:`check`."""
        for pause in _pauses():
            underway_bytes = self.underway_bytes()
            self.check()  # after the look: a reset leaves the queue as it was, an end may come after all was read
            if not underway_bytes:
                return
            await asyncio.sleep(pause)

    async def finish(self) -> None:
        """End in order: say goodbye and wait until the peer's kernel knows. Raises OSError, also when the peer
        ends at the same time."""
        self.check()
        if isinstance(self._socket, ssl.SSLSocket):
            try:
                self._socket = self._socket.unwrap()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass  # ours is sent; the peer's is not waited for
        self._socket.shutdown(socket.SHUT_WR)
        await self.acknowledged()

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def _pauses() -> Iterator[float]:
    """Seconds between one look at the queue and the next, without end."""
    yield from (0.0 for _ in range(POLL_TURNS))
    pause = SHORTEST_POLL_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_POLL_SECONDS)


async def connect(destination: Destination) -> Connection:
    """Connect to the first address of the host that answers; with TLS, verified.

    Raises:
        OSError: nobody answers, the name is unknown, or TLS fails (``ssl.SSLError``).
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(destination.host, destination.port, type=socket.SOCK_STREAM)
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in addresses:
        made = socket.socket(family, kind, protocol)
        try:
            _prepare(made, destination)
            await loop.sock_connect(made, address)
            if destination.tls is not None:
                made = await _secure(made, destination.tls, destination.server_name)
            return Connection(made)
        except OSError as error:
            made.close()
            failure = error
        except BaseException:
            made.close()
            raise
    raise failure


def _prepare(made: socket.socket, destination: Destination) -> None:
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(destination.peer_timeout_seconds * 1000))
    set_priority(made, destination.priority_class, destination.where)


async def _secure(plain: socket.socket, context: ssl.SSLContext, server_name: str) -> ssl.SSLSocket:
    """TLS over a connected socket, handshake done; ``plain`` is taken over or closed."""
    secured = context.wrap_socket(plain, server_hostname=server_name, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
                return secured
            except ssl.SSLWantReadError:
                await readable(secured)
            except ssl.SSLWantWriteError:
                await writable(secured)
    except BaseException:
        secured.close()
        raise
