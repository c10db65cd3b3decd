"""Sink ``udp``: one datagram per message or JSON line.

UDP acknowledges nothing: a segment counts as delivered when its datagrams are in the kernel's hands.

Counted in the tally: ``datagram_too_large`` (above ``max_datagram_bytes``; left out, the rest of the segment
is sent), ``connection_refused`` (nobody listened; the datagram that met the answer is sent again, those
before it are lost), ``send_errors`` (any other refusal, tried again), ``datagrams_unsent`` (left out after
:data:`ATTEMPTS`).
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from streamspec.core.address import Address, split_address
from streamspec.core.clock import SystemClock
from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Clock, Delivery, DeliveryBatch
from streamspec.core.pacer import Pace
from streamspec.core.tally import Tally
from streamspec.core.units import Bytes
from streamspec.sinks.egress import Content, EgressConfig, Pacer, Sleep, retag, set_priority, writable

if TYPE_CHECKING:
    from streamspec.sinks.datagrams import DatagramList
    from streamspec.sinks.frames import Pieces

LARGEST_DATAGRAM_BYTES = 65507
"""65535 less the headers of IPv4 and UDP."""
BATCH_DATAGRAMS = 256
"""Datagrams per system call; between two the event loop gets its turn."""
BATCH_BYTES = 1 << 20
QUEUE_FULL_SECONDS = 0.001
"""Rest when the queue of the network interface is full."""
ATTEMPTS = 3
"""How often one datagram is tried when the kernel refuses it. Errors of earlier datagrams are reported at a
later one, which they do not concern."""


class UdpSinkConfig(EgressConfig):
    """Send datagrams to a UDP peer."""

    type: Literal["udp"] = Field(description="Datagrams to a UDP peer, without acknowledgement.")
    address: Address = Field(description="Peer to send to: `collector.example:514`, `10.0.0.1:514`, `[::1]:514`.")
    content: Content = Field(
        default="records",
        description="What is sent. `records`: each JSON line of the stages' results, without its newline; `payload`: "
        "each message of a segment whose payload no stage changed, or the transformed payload of a segment.",
    )
    max_datagram_bytes: Bytes = Field(
        default=LARGEST_DATAGRAM_BYTES,
        ge=1,
        le=LARGEST_DATAGRAM_BYTES,
        description="Largest datagram sent, in bytes (1 to 65507); larger ones are left out and counted as "
        "`datagram_too_large`. Above 1472 (1452 over IPv6) a datagram travels in fragments over Ethernet, and is lost "
        "with any one of them.",
    )

    def build(self, name: str) -> UdpSink:
        """The sink, not yet opened."""
        return UdpSink(name, self)


class UdpSink:
    """Implements ``Sink``.

    Args:
        name: its key under ``sinks``.
        config: its configuration.
        clock: for pacing.
        sleep: waits for so many seconds.
    """

    def __init__(
        self, name: str, config: UdpSinkConfig, *, clock: Clock | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._where = f"sinks.{name}"
        self._config = config
        self._pacer = Pacer(config, clock or SystemClock(), sleep)
        self._priority_class = config.priority_class
        self._sleep = sleep
        self._tally = Tally()
        self._socket: socket.socket | None = None
        self._datagrams: DatagramList | None = None
        self._cut: Callable[[Delivery, Content], Iterator[Pieces]] | None = None

    async def open(self, tally: Tally) -> None:
        """Resolve the address and make the socket; nobody has to listen.

        Raises:
            DependencyUnavailable: unknown host, no route, or SO_PRIORITY not permitted.
        """
        from streamspec.sinks.datagrams import DatagramList
        from streamspec.sinks.frames import pieces_of

        config = self._config
        self._tally = tally
        host, port = split_address(config.address)
        made: socket.socket | None = None
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            made = socket.socket(family, kind, protocol)
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            set_priority(made, self._priority_class, self._where)
            made.connect(address)
        except (OSError, DependencyUnavailable) as error:
            if made is not None:
                made.close()
            if isinstance(error, DependencyUnavailable):
                raise
            raise DependencyUnavailable(
                f"cannot send there: {error.strerror}",
                where=f"{self._where}.address",
                value=config.address,
                next_step="check the name and the routes (ip route get ADDRESS), or write an IP address",
            ) from error
        self._socket = made
        self._cut = pieces_of
        self._datagrams = DatagramList(BATCH_DATAGRAMS, config.max_datagram_bytes, self._most_bytes())

    async def write(self, batch: DeliveryBatch) -> None:
        """Return when all datagrams are in the kernel's hands."""
        datagrams, cut = self._datagrams, self._cut
        assert datagrams is not None, "open first"
        assert cut is not None
        listed = []  # keeps the memory alive that addresses were taken of
        datagrams.clear()
        for delivery in batch:
            for pieces in cut(delivery, self._config.content):
                listed.append(pieces)
                first = 0
                while (first := datagrams.add(pieces, first)) < len(pieces.starts):
                    await self._flush(datagrams)
        await self._flush(datagrams)
        self._tally.add("datagram_too_large", datagrams.take_too_large())

    def shape(
        self, priority_class: str | None = None, bytes_per_second: float | None = None, pace: Pace | None = None
    ) -> None:
        """See ``ShapedSink``: datagrams that are queued in the kernel keep the class that they were sent with."""
        tag = priority_class or self._config.priority_class
        if self._socket is not None:
            retag(self._socket, tag, self._where)
        self._priority_class = tag
        self._pacer.set_rate(bytes_per_second)
        self._pacer.follow(pace)
        if self._datagrams is not None:
            self._datagrams.most_bytes = self._most_bytes()

    async def close(self) -> None:
        """Close the socket; what it was given is on its way."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _most_bytes(self) -> int:
        return min(BATCH_BYTES, self._pacer.burst_bytes or BATCH_BYTES)

    async def _flush(self, datagrams: DatagramList) -> None:
        """Send what is listed."""
        target = self._socket
        assert target is not None, "open first"
        await self._pacer.pass_on(datagrams.size_bytes)
        attempts, cut_short = 0, False
        while datagrams.left:
            asked = datagrams.left
            try:
                sent = datagrams.send(target)
            except BlockingIOError:
                cut_short = False
                await writable(target)
                continue
            except OSError as error:
                cut_short = False
                if error.errno == errno.ENOBUFS:
                    await self._sleep(QUEUE_FULL_SECONDS)
                    continue
                attempts = self._refused(datagrams, error, attempts)
                continue
            if cut_short:
                # The call before ended early, and what ended it is gone: the answer to an earlier datagram.
                self._tally.add("connection_refused")
            attempts = 0
            cut_short = sent < asked and _is_writable(target)
        datagrams.clear()
        await asyncio.sleep(0)

    def _refused(self, datagrams: DatagramList, error: OSError, attempts: int) -> int:
        """Count the error; after too many attempts go on with the next datagram. Returns the attempts made."""
        self._tally.add("connection_refused" if isinstance(error, ConnectionRefusedError) else "send_errors")
        if attempts + 1 < ATTEMPTS:
            return attempts + 1
        self._tally.add("datagrams_unsent")
        datagrams.skip()
        return 0


def _is_writable(target: socket.socket) -> bool:
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    return bool(poll.poll(0))
