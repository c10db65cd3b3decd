"""Source ``tcp``: frames of many connections, each connection a stream key of its own.

Bytes are received straight into the arena and framed by compiled kernels
(:mod:`streamspec.sources.tcp_connection`); Python works per read and per segment. The source can wait:
without a free slot it stops reading and TCP slows the peers down.

Counted in the tally: ``connections_refused`` (above ``max_connections``), ``connections_reset``,
``tls_failures``, ``idle_timeouts``, ``frame_too_large``, ``incomplete_frames`` (the stream ended inside a frame,
a stop of ours included), ``accept_errors`` (no descriptor left, for instance).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from streamspec.core.address import Address, join_address, split_address
from streamspec.core.component import SourceConfigBase
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.interfaces import Intake
from streamspec.core.units import Bytes, Seconds
from streamspec.sources.tls import ServerTls

if TYPE_CHECKING:
    from streamspec.sources.tcp_reception import Reception

KIB = 1024
MIB = 1024 * KIB

BACKLOG = 1024
"""Connections that the kernel completes before we accept them (at most ``net.core.somaxconn``)."""
ACCEPT_PAUSE_SECONDS = 0.1
"""Rest after a failed accept: without a free descriptor the next one fails as well."""
TLS_SHUTDOWN_SECONDS = 2.0
"""How long a peer that ended TLS is waited for until its connection is cut."""
IDLE_CHECKS = 8
"""How often per ``idle_timeout`` connections are looked at: it is exceeded by at most an eighth."""
LONGEST_IDLE_CHECK_SECONDS = 5.0

_NEXT_STEPS = {
    errno.EADDRINUSE: "stop the process that holds it (ss -ltnp), or bind another port",
    errno.EADDRNOTAVAIL: "use an address of this host (ip addr), or 0.0.0.0",
    errno.EACCES: "use a port from 1024 on, or give the process CAP_NET_BIND_SERVICE",
}


class TcpConfig(SourceConfigBase):
    """Accept TCP or TLS connections and receive frames."""

    type: Literal["tcp"] = Field(description="Frames of TCP connections.")
    bind: Address = Field(
        description="Address and port to listen on, `127.0.0.1:9000` or `[::1]:9000`; `0.0.0.0` or `[::]` for all "
        "addresses of the host, port 0 for any free one.",
    )
    framing: Literal["length", "newline", "chunks"] = Field(
        description="How frames are told apart. `length`: four bytes, big-endian, with the length of what follows; "
        "`newline`: lines (a carriage return before the newline stays); `chunks`: no frames, what was read at once.",
    )
    tls: ServerTls | None = Field(default=None, description="Certificates; unset: plain TCP.")
    max_connections: int = Field(
        default=1024,
        ge=1,
        le=100_000,
        description="Connections at a time (1 to 100000); further ones are closed and counted as "
        "`connections_refused`. Each can take a descriptor and, while its frames are incomplete, memory up to "
        "`max_frame_bytes`.",
    )
    max_frame_bytes: Bytes | None = Field(
        default=None,
        ge=1,
        le=256 * MIB,
        description="Longest frame in bytes without its length or newline (default: what a slot holds, 64 KiB "
        "unless the engine's `max_packet_bytes` is larger, less 4 bytes for the length or 1 for the newline). A longer "
        "one closes its connection and is counted as `frame_too_large`. For `chunks`: longest chunk.",
    )
    idle_timeout: Seconds = Field(
        default=300.0,
        gt=0,
        le=7 * 86_400,
        description="Seconds without a byte after which a connection is closed and counted as `idle_timeouts` "
        "(above 0 to 7 days). Shorter frees the places of peers that vanished without a word sooner.",
    )
    segment_bytes: Bytes = Field(
        default=64 * KIB,
        ge=1,
        le=256 * MIB,
        description="Complete frames in bytes at which a connection's segment is full (1 B to 256 MiB, at most the "
        "engine's). Larger segments cost less per frame and wait longer to fill.",
    )
    linger: Seconds = Field(
        default=0.02,
        ge=0,
        le=3600,
        description="Seconds that a segment stays open for more frames of its connection (0 to 3600). Longer gives "
        "fuller segments at low rates, and adds as much latency.",
    )

    def build(self, name: str) -> TcpSource:
        """The source, not yet listening."""
        return TcpSource(name, self)


class TcpSource:
    """Implements ``Source`` and ``ClosableSource``.

    Attributes:
        address: where it listens, once open; tells the port when 0 was configured.
    """

    can_wait = True

    def __init__(self, name: str, config: TcpConfig) -> None:
        self._where = f"sources.{name}"
        self._config = config
        self._listener: socket.socket | None = None
        self._reception: Reception | None = None
        self._tls: ssl.SSLContext | None = None
        self._arrivals: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self.address: tuple[str, int] = ("", 0)

    # -- life ---------------------------------------------------------------------------------
    async def open(self, intake: Intake) -> None:
        """Listen, read the certificates and load the kernels.

        Raises:
            DependencyUnavailable: port in use, foreign address, not permitted, missing file.
            ConfigError: unusable certificate, or frames larger than a slot.
        """
        from streamspec.sources.tcp_reception import FRAME_OVERHEAD_BYTES, Reception

        config = self._config
        room = intake.layout.payload_bytes - FRAME_OVERHEAD_BYTES[config.framing]
        if config.max_frame_bytes is not None and config.max_frame_bytes > room:
            raise ConfigError(
                "a frame of this size does not fit into a segment",
                where=f"{self._where}.max_frame_bytes",
                value=config.max_frame_bytes,
                allowed=f"up to {room} bytes with framing {config.framing}",
                next_step="raise engine.max_packet_bytes, or lower max_frame_bytes",
            )
        if config.tls is not None:
            self._tls = config.tls.context(f"{self._where}.tls")
        self._listener = await self._listen()
        self.address = self._listener.getsockname()[:2]
        self._reception = Reception(
            intake,
            config.framing,
            max_frame_bytes=config.max_frame_bytes or room,
            segment_bytes=config.segment_bytes,
            linger_ns=round(config.linger * 1e9),
        )

    async def run(self) -> None:
        """Receive until :meth:`stop`; then commit every complete frame that was read."""
        assert self._reception is not None, "open first"
        stop = asyncio.create_task(self._stopping.wait())
        work = [asyncio.create_task(part) for part in (self._accept(), self._reception.serve(), self._watch_idle())]
        try:
            done, _ = await asyncio.wait([stop, *work], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a bug of ours must not pass as an end
        finally:
            for task in (stop, *work, *self._arrivals):
                task.cancel()
            await asyncio.gather(stop, *work, *self._arrivals, return_exceptions=True)
            self._close_listener()
            for connection in list(self._reception.connections):
                connection.abort()
        await self._reception.finish()

    async def stop(self) -> None:
        """Take nothing new in. What peers sent and we did not read is lost to them, as after any reset."""
        self._stopping.set()

    async def close(self) -> None:
        """Let go of the port and the arena."""
        self._close_listener()
        if self._reception is not None:
            self._reception.close()
            self._reception = None

    async def _listen(self) -> socket.socket:
        host, port = split_address(self._config.bind)
        where = f"{self._where}.bind"
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise DependencyUnavailable(
                f"unknown host: {error.strerror}", where=where, value=host, next_step="write an IP address"
            ) from error
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and host == "::":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            raise DependencyUnavailable(
                f"cannot listen: {error.strerror}",
                where=where,
                value=self._config.bind,
                next_step=_NEXT_STEPS.get(error.errno or 0, "check the address and what the host allows"),
            ) from error
        return listener

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # -- connections --------------------------------------------------------------------------
    async def _accept(self) -> None:
        assert self._listener is not None
        assert self._reception is not None
        loop, tally = asyncio.get_running_loop(), self._reception.tally
        while True:
            try:
                accepted, peer = await loop.sock_accept(self._listener)
            except OSError:
                tally.add("accept_errors")
                await asyncio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._reception.connections) + len(self._arrivals) >= self._config.max_connections:
                accepted.close()
                tally.add("connections_refused")
                continue
            arrival = loop.create_task(self._welcome(accepted, join_address(*peer[:2]).encode()))
            self._arrivals.add(arrival)
            arrival.add_done_callback(self._arrivals.discard)

    async def _welcome(self, accepted: socket.socket, key: bytes) -> None:
        """Give the connection its protocol; with TLS, after the handshake."""
        from streamspec.sources.tcp_connection import Connection

        reception, tls = self._reception, self._config.tls
        assert reception is not None
        connect = asyncio.get_running_loop().connect_accepted_socket
        made: Awaitable[object]
        if tls is None:
            made = connect(lambda: Connection(reception, key), accepted)
        else:
            made = connect(
                lambda: Connection(reception, key),
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=tls.handshake_timeout,
                ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
            )
        try:
            await made
        except (OSError, ssl.SSLError, TimeoutError):
            reception.tally.add("tls_failures" if tls is not None else "connections_reset")

    async def _watch_idle(self) -> None:
        assert self._reception is not None
        timeout = self._config.idle_timeout
        while True:
            await asyncio.sleep(min(timeout / IDLE_CHECKS, LONGEST_IDLE_CHECK_SECONDS))
            self._reception.close_idle(self._reception.clock.monotonic_ns() - round(timeout * 1e9))
