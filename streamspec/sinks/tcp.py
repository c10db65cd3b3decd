"""Sink ``tcp``: frames over one connection that is made again whenever it breaks.

Delivery is at least once, as far as TCP can tell. ``write`` returns when the peer's kernel has acknowledged
every byte of the batch (``SIOCOUTQ`` is 0); until then the batch is kept, and sent again as a whole over the
next connection if this one breaks. What a peer's kernel acknowledged and its process never read dies with
that process, and TCP gives no sign of it. Therefore the last ``replay_bytes`` are kept beyond their
acknowledgement and sent again after a connection that did not end in order: with a receive buffer no larger
than that, nothing is lost. A reader has to expect repeated frames after a reconnect, in order from some
earlier frame on. A peer that closes its direction is taken to have closed the connection.

Counted in the tally: ``reconnects``, ``connect_failures``, ``tls_failures``, ``resent_segments``,
``undelivered_segments`` (left at ``close``).
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from streamspec.core.address import Address, split_address
from streamspec.core.clock import SystemClock
from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Clock, DeliveryBatch
from streamspec.core.pacer import Pace
from streamspec.core.tally import Tally
from streamspec.core.units import Bytes, Seconds
from streamspec.links.tls import ClientTls
from streamspec.sinks.egress import Content, EgressConfig, Framing, Pacer, Sleep, set_priority
from streamspec.sinks.tcp_connection import Connection, Destination, PeerClosed, connect

if TYPE_CHECKING:
    from streamspec.sinks.frames import Chunk, FrameBuilder

KIB = 1024
MIB = 1024 * KIB

CHUNK_BYTES = 256 * KIB
"""Built and sent at once; between two the event loop gets its turn."""


class TcpSinkConfig(EgressConfig):
    """Write frames to a TCP or TLS peer."""

    type: Literal["tcp"] = Field(description="Frames to a TCP peer, made again when the connection breaks.")
    address: Address = Field(description="Peer to connect to: `collector.example:9000`, `10.0.0.1:9000`, `[::1]:9000`.")
    content: Content = Field(
        default="records",
        description="What is written. `records`: each JSON line of the stages' results; `payload`: each message of a "
        "segment whose payload no stage changed, or the transformed payload of a segment as one frame.",
    )
    framing: Framing = Field(
        default="newline",
        description="How the reader tells frames apart. `newline`: a newline behind each (for content without "
        "newlines of its own); `length`: four bytes, big-endian, with the length of what follows; `raw`: not at all.",
    )
    tls: ClientTls | None = Field(default=None, description="Certificates; unset: plain TCP.")
    connect_timeout: Seconds = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Seconds to reach the peer at the start (0 to 3600), then the service gives up; and the most that "
        "one later attempt may take. Later outages are waited for without end. Longer tolerates a peer that starts "
        "after us.",
    )
    reconnect_initial: Seconds = Field(
        default=0.1,
        gt=0,
        le=60,
        description="Seconds until the second attempt after a break (above 0 to 60); doubled with each further one, "
        "and shortened at random by up to half, so that many clients do not come back at once.",
    )
    reconnect_max: Seconds = Field(
        default=10.0, gt=0, le=3600, description="Most seconds between two attempts (above 0 to 3600)."
    )
    peer_timeout: Seconds = Field(
        default=120.0,
        ge=1,
        le=86_400,
        description="Seconds without any progress, neither acknowledged nor read, after which the peer is taken for "
        "dead and connected to anew (1 to 86400). Must exceed the longest pause of a slow reader; shorter notices a "
        "dead network sooner.",
    )
    replay_bytes: Bytes = Field(
        default=8 * MIB,
        ge=0,
        le=1024 * MIB,
        description="Bytes kept after they were acknowledged, and sent again after a connection that broke (0 to "
        "1 GiB). As large as the peer's receive buffer (Linux: up to 6 MiB), nothing is lost when its process dies; "
        "smaller repeats less. It takes as much memory.",
    )
    close_timeout: Seconds = Field(
        default=5.0, ge=0, le=3600, description="Seconds that closing waits for the last acknowledgement (0 to 3600)."
    )

    def build(self, name: str) -> TcpSink:
        """The sink, not yet connected."""
        return TcpSink(name, self)


class TcpSink:
    """Implements ``Sink``.

    Args:
        name: its key under ``sinks``.
        config: its configuration.
        clock: for pacing and the time at the start.
        uniform: random source of the backoff: ``uniform(low, high)``.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        name: str,
        config: TcpSinkConfig,
        *,
        clock: Clock | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._where = f"sinks.{name}"
        self._config = config
        self._clock = clock or SystemClock()
        self._uniform = uniform
        self._sleep = sleep
        self._pacer = Pacer(config, self._clock, sleep)
        self._priority_class = config.priority_class
        self._tally = Tally()
        self._destination: Destination | None = None
        self._builder: FrameBuilder | None = None
        self._connection: Connection | None = None
        self._failures = 0  # attempts and connections in a row that brought nothing
        self._kept: deque[Chunk] = deque()
        self._kept_bytes = 0
        self._confirmed = 0  # chunks at the start of `_kept` that the peer's kernel has
        self._next = 0  # first chunk of `_kept` that the present connection has not been given
        self._begun = False  # whether it has been given a part of that chunk

    # -- life ---------------------------------------------------------------------------------
    async def open(self, tally: Tally) -> None:
        """Connect, trying again until ``connect_timeout``.

        Raises:
            DependencyUnavailable: the peer cannot be reached or is not who it should be, a file is missing, or
                SO_PRIORITY is not permitted.
            ConfigError: unusable certificate.
        """
        from streamspec.sinks.frames import FrameBuilder

        config = self._config
        self._tally = tally
        self._builder = FrameBuilder(config.content, config.framing, self._chunk_bytes)
        host, port = split_address(config.address)
        tls = config.tls
        with socket.socket() as trial:  # asked once, so that it is not found out at a reconnect
            set_priority(trial, self._priority_class, self._where)
        self._destination = Destination(
            host=host,
            port=port,
            tls=tls.context(f"{self._where}.tls") if tls is not None else None,
            server_name=(tls.server_name if tls is not None else None) or host,
            priority_class=self._priority_class,
            peer_timeout_seconds=config.peer_timeout,
            where=self._where,
        )
        give_up_ns = self._clock.monotonic_ns() + round(config.connect_timeout * 1e9)
        while self._connection is None:
            try:
                self._connection = await self._connect()
            except OSError as error:
                if isinstance(error, ssl.SSLError) or self._clock.monotonic_ns() >= give_up_ns:
                    raise self._unreachable(error) from error
                self._failures += 1
                await self._back_off()
        self._failures = 0

    async def write(self, batch: DeliveryBatch) -> None:
        """Return when the peer's kernel has all of it, however long that takes."""
        assert self._builder is not None, "open first"
        for chunk in self._builder.chunks(batch):
            self._kept.append(chunk)
            self._kept_bytes += len(chunk.content)
            await self._keep_trying(self._send)
            await asyncio.sleep(0)
        await self._confirm()

    def shape(
        self, priority_class: str | None = None, bytes_per_second: float | None = None, pace: Pace | None = None
    ) -> None:
        """See ``ShapedSink``: the present connection at once, and each that follows."""
        tag = priority_class or self._config.priority_class
        if self._connection is not None:
            self._connection.tag(tag, self._where)
        if self._destination is not None:
            self._destination = replace(self._destination, priority_class=tag)
        self._priority_class = tag
        self._pacer.set_rate(bytes_per_second)
        self._pacer.follow(pace)
        if self._builder is not None:
            self._builder.chunk_bytes = self._chunk_bytes

    async def close(self) -> None:
        """Bring what is left to the peer, as far as ``close_timeout`` allows, and disconnect."""
        try:
            async with asyncio.timeout(self._config.close_timeout):
                if self._kept:  # also what was acknowledged: its connection may have broken since
                    await self._keep_trying(self._send_and_wait)
                    self._confirmed = len(self._kept)
                if self._connection is not None:
                    await self._connection.finish()
        except OSError:  # the peer was faster, or the time is over
            pass
        finally:
            self._tally.add("undelivered_segments", sum(c.segments for c in list(self._kept)[self._confirmed :]))
            self._kept.clear()
            self._kept_bytes = self._confirmed = self._next = 0
            self._disconnect()

    # -- sending ------------------------------------------------------------------------------
    async def _send(self, connection: Connection) -> None:
        """Give the connection what it has not been given yet."""
        connection.check()
        while self._next < len(self._kept):
            content = self._kept[self._next].content
            await self._pacer.pass_on(len(content))
            self._begun = True
            await connection.send(content)
            self._begun = False
            self._next += 1

    async def _send_and_wait(self, connection: Connection) -> None:
        await self._send(connection)
        await connection.acknowledged()

    async def _confirm(self) -> None:
        """Return when everything is acknowledged; keep no more than is to be replayed."""
        if self._confirmed < len(self._kept):
            await self._keep_trying(self._send_and_wait)
            self._confirmed = len(self._kept)
            self._failures = 0
        while self._kept and self._kept_bytes > self._config.replay_bytes:
            self._kept_bytes -= len(self._kept.popleft().content)
            self._confirmed -= 1
            self._next -= 1

    async def _keep_trying(self, step: Callable[[Connection], Awaitable[None]]) -> None:
        """Do ``step`` on the live connection, and on the next one if it breaks, until it succeeds."""
        while True:
            try:
                connection = self._connection or await self._reconnect()
                await step(connection)
                return
            except OSError as error:
                self._lose(all_read=isinstance(error, PeerClosed) and error.all_read)
                if not self._unsent:
                    return
            except BaseException:
                self._lose(all_read=False)  # half a frame may be out; only the end of the connection ends it
                raise

    @property
    def _unsent(self) -> bool:
        """Whether there is something that the present connection has not been given."""
        return self._next < len(self._kept)

    def _lose(self, *, all_read: bool) -> None:
        """The connection is gone; decide what the next one is given."""
        if self._connection is None:
            return
        self._disconnect()
        if all_read and not self._begun:
            for _ in range(self._next):
                self._kept_bytes -= len(self._kept.popleft().content)
            self._confirmed = 0
        else:
            given = self._next + self._begun
            self._tally.add("resent_segments", sum(chunk.segments for chunk in list(self._kept)[:given]))
        self._next, self._begun = 0, False
        self._failures += 1

    # -- connecting ---------------------------------------------------------------------------
    async def _reconnect(self) -> Connection:
        while True:
            if self._failures > 1:
                await self._back_off()
            try:
                self._connection = await self._connect()
            except OSError as error:
                self._failures += 1
                self._tally.add("tls_failures" if isinstance(error, ssl.SSLError) else "connect_failures")
                continue
            self._tally.add("reconnects")
            return self._connection

    async def _connect(self) -> Connection:
        assert self._destination is not None, "open first"
        # At least a second: with a connect_timeout of 0 the start makes one honest attempt.
        async with asyncio.timeout(max(self._config.connect_timeout, 1.0)):
            return await connect(self._destination)

    async def _back_off(self) -> None:
        config = self._config
        doubled = config.reconnect_initial * 2.0 ** min(max(self._failures - 2, 0), 30)
        longest = min(config.reconnect_max, doubled)
        await self._sleep(self._uniform(longest / 2, longest))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _chunk_bytes(self) -> int:
        return min(CHUNK_BYTES, self._pacer.burst_bytes or CHUNK_BYTES)

    def _unreachable(self, error: OSError) -> DependencyUnavailable:
        if isinstance(error, socket.gaierror):
            next_step = "check the name, or write an IP address"
        elif isinstance(error, ssl.SSLError):
            next_step = "check tls.ca and tls.server_name against the peer's certificate"
        else:
            next_step = "start the peer first, or check address and firewall"
        return DependencyUnavailable(
            f"cannot connect: {error.strerror or str(error) or type(error).__name__}",
            where=f"{self._where}.address",
            value=self._config.address,
            next_step=next_step,
        )
