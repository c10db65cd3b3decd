"""Source ``udp``: datagrams of one peer, gathered into segments by size and time.

The event loop says when the socket is readable; then batches of datagrams are read by ``recvmmsg`` and
sorted by one compiled kernel into the open segment of their peer (:mod:`streamspec.sources.udp_kernels`).
Python works per batch and per segment, never per datagram. The source cannot wait: without a free slot it
sheds through its intake, and when even that gives none, datagrams are dropped and counted.

Counted in the tally: ``socket_drops`` (the kernel's, receive buffer full), ``arena_full_drops``,
``truncated_datagrams``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog
from pydantic import Field, model_validator

from streamspec.core.address import Address, split_address
from streamspec.core.component import SourceConfigBase
from streamspec.core.errors import DependencyUnavailable, InternalError
from streamspec.core.interfaces import Intake
from streamspec.core.units import Bytes, Seconds

if TYPE_CHECKING:
    from streamspec.sources.udp_gathering import Gathering
    from streamspec.sources.udp_socket import ReceiveBatch

_log = structlog.get_logger("streamspec.sources.udp")

KIB = 1024
MIB = 1024 * KIB

BATCH_DATAGRAMS = 256
"""Datagrams per system call. More gain nothing: the call's own cost is already below a hundredth."""
READS_PER_WAKEUP = 8
"""System calls until the event loop gets its turn: about 2 ms under overload."""
SHORTEST_TIMER_SECONDS = 0.001
"""Expiries nearer to each other than this share one wake-up."""


class UdpConfig(SourceConfigBase):
    """Receive datagrams on a UDP port."""

    type: Literal["udp"] = Field(description="Datagrams from a UDP socket.")
    bind: Address = Field(
        description="Address and port to receive on, `127.0.0.1:9000` or `[::1]:9000`; `0.0.0.0` or `[::]` for all "
        "addresses of the host, port 0 for any free one.",
    )
    segment_bytes: Bytes = Field(
        default=64 * KIB,
        ge=1,
        le=256 * MIB,
        description="Payload in bytes at which a peer's segment is full (1 B to 256 MiB, at most the engine's). "
        "Larger segments cost less per datagram and wait longer to fill.",
    )
    linger: Seconds = Field(
        default=0.02,
        ge=0,
        le=3600,
        description="Seconds that a segment stays open for more datagrams of its peer (0 to 3600). Longer gives "
        "fuller segments at low rates, and adds as much latency.",
    )
    max_datagram_bytes: Bytes = Field(
        default=65535,
        ge=1,
        le=65535,
        description="Longest datagram taken whole, in bytes (1 to 65535); of a longer one the rest is cut off and "
        "counted as `truncated_datagrams`. Lower bounds what a hostile peer can fill.",
    )
    receive_buffer_bytes: Bytes = Field(
        default=16 * MIB,
        ge=4 * KIB,
        le=1024 * MIB,
        description="Kernel buffer to ask for, in bytes (4 KiB to 1 GiB). Small datagrams take about 800 bytes each "
        "of it. Larger absorbs longer stalls before `socket_drops`; what the host grants is logged if less.",
    )
    reuse_port: bool = Field(
        default=False,
        description="Share the port with other sockets that ask the same (SO_REUSEPORT); the kernel spreads peers "
        "over them.",
    )
    multicast_group: str | None = Field(
        default=None, description="Multicast group to join, e.g. `239.1.2.3` or `ff02::1234`; of the bound family."
    )
    interface: str | None = Field(
        default=None,
        description="Network interface on which to join `multicast_group`, e.g. `eth0` (default: by route).",
    )
    max_open_segments: int | None = Field(
        default=None,
        ge=1,
        le=1 << 20,
        description="Peers with an open segment at a time (1 to 1048576, at most three quarters of the arena's slots; "
        "default: a quarter). Beyond it the oldest is closed early: more fills segments of many slow peers better, "
        "fewer leaves more of the arena to segments under way.",
    )

    @model_validator(mode="after")
    def _multicast_fits(self) -> UdpConfig:
        if self.multicast_group is None:
            if self.interface is not None:
                raise ValueError("interface: only for joining a multicast_group, which is not set")
            return self
        group = ipaddress.ip_address(self.multicast_group)
        if not group.is_multicast:
            raise ValueError(f"multicast_group: {group} is no multicast address; 224.0.0.0/4 or ff00::/8 are")
        if (group.version == 6) != self.bind.startswith("["):
            raise ValueError(f"multicast_group: {group} is not of the family of bind, {self.bind}")
        return self

    def build(self, name: str) -> UdpSource:
        """The source, not yet bound."""
        return UdpSource(name, self)


class UdpSource:
    """Implements ``Source`` and ``ClosableSource``.

    Attributes:
        address: where it is bound, once open; tells the port when 0 was configured.
        granted_receive_buffer_bytes: what the kernel gave of ``receive_buffer_bytes``.
    """

    can_wait = False

    def __init__(self, name: str, config: UdpConfig) -> None:
        self._where = f"sources.{name}"
        self._config = config
        self._linger_ns = round(config.linger * 1e9)
        self._stopping = asyncio.Event()
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opened: _Opened | None = None
        self.address: tuple[str, int] = ("", 0)
        self.granted_receive_buffer_bytes = 0

    # -- life ---------------------------------------------------------------------------------
    async def open(self, intake: Intake) -> None:
        """Bind the socket and load the kernels.

        Raises:
            DependencyUnavailable: port in use, foreign address, unknown interface, not permitted.
        """
        from streamspec.sources.udp_gathering import Gathering
        from streamspec.sources.udp_socket import ReceiveBatch

        config = self._config
        room = min(config.segment_bytes, intake.layout.payload_bytes)
        bound = self._bind()
        try:
            batch = ReceiveBatch(bound, BATCH_DATAGRAMS, min(config.max_datagram_bytes, room))
            gathering = Gathering(intake, batch, room, config.max_open_segments)
        except BaseException:
            bound.close()
            raise
        self._opened = _Opened(bound, batch, gathering, intake)

    def _bind(self) -> socket.socket:
        from streamspec.sources import udp_socket

        config = self._config
        host, port = split_address(config.bind)
        bound = udp_socket.bind_datagram_socket(host, port, reuse_port=config.reuse_port, where=f"{self._where}.bind")
        try:
            if config.multicast_group is not None:
                udp_socket.join_multicast(bound, config.multicast_group, config.interface, where=self._where)
            self.granted_receive_buffer_bytes = udp_socket.grow_receive_buffer(bound, config.receive_buffer_bytes)
        except BaseException:
            bound.close()
            raise
        self.address = bound.getsockname()[:2]
        if self.granted_receive_buffer_bytes < config.receive_buffer_bytes:
            _log.warning(
                "receive_buffer_smaller_than_asked",
                where=f"{self._where}.receive_buffer_bytes",
                asked_bytes=config.receive_buffer_bytes,
                granted_bytes=self.granted_receive_buffer_bytes,
                next_step=f"sysctl -w net.core.rmem_max={config.receive_buffer_bytes}, or grant CAP_NET_ADMIN",
            )
        return bound

    async def run(self) -> None:
        """Receive until :meth:`stop`, then take in what the socket still holds and commit what is open.

        Raises:
            DependencyUnavailable: the socket broke.
        """
        opened = self._opened
        if opened is None:
            raise InternalError("run before open", where=self._where)
        try:
            await self._until_stopped(opened)
            await self._drain(opened)
        except OSError as error:
            raise DependencyUnavailable(
                f"the UDP socket broke: {error.strerror}",
                where=self._where,
                next_step="see the kernel's log, then start the service again",
            ) from error
        finally:
            self._disarm()
            opened.gathering.close_until()

    async def _until_stopped(self, opened: _Opened) -> None:
        loop = asyncio.get_running_loop()
        if not self._stopping.is_set():
            loop.add_reader(opened.socket.fileno(), self._on_readable)
            try:
                await self._stopping.wait()
            finally:
                loop.remove_reader(opened.socket.fileno())
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Take nothing new in; :meth:`run` returns after what the socket holds already. Safe to call twice."""
        self._stopping.set()

    async def close(self) -> None:
        """Release the socket and the memory. Safe to call twice."""
        self._disarm()
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.socket.close()

    # -- datagrams ----------------------------------------------------------------------------
    def _on_readable(self) -> None:
        try:
            self._receive(self._require_open())
        except Exception as error:  # the loop would only log it; `run` has to end with it
            self._fail(error)

    def _receive(self, opened: _Opened) -> bool:
        """Take in what is there, up to a bound; True when there may be more."""
        more = True
        for _ in range(READS_PER_WAKEUP):
            count = opened.batch.receive()
            if count:
                opened.gathering.take(count)
            more = count == opened.batch.size
            if not more:
                break
        if self._linger_ns == 0:
            opened.gathering.close_until()
        elif self._timer is None and opened.gathering.open_segments:
            self._arm(opened)
        return more

    async def _drain(self, opened: _Opened) -> None:
        """Empty the socket's queue. Nothing gets in any more, so a sender that goes on cannot hold the stop up."""
        from streamspec.sources import udp_socket

        udp_socket.refuse_datagrams(opened.socket)
        opened.gathering.count_socket_drops(udp_socket.read_socket_drops(opened.socket))
        more = self._receive(opened)
        while more:
            await asyncio.sleep(0)
            more = self._receive(opened)

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._stopping.set()

    def _require_open(self) -> _Opened:
        if self._opened is None:
            raise InternalError("used after close", where=self._where)
        return self._opened

    # -- linger -------------------------------------------------------------------------------
    def expire(self) -> None:
        """Commit the segments that have lingered long enough by the intake's clock; the timer calls it."""
        from streamspec.sources import udp_socket

        opened = self._require_open()
        opened.gathering.close_until(opened.intake.clock.monotonic_ns() - self._linger_ns)
        # A datagram reports the drops before it; after the last one nobody would.
        opened.gathering.count_socket_drops(udp_socket.read_socket_drops(opened.socket))

    def _on_timer(self) -> None:
        self._timer = None
        opened = self._require_open()
        try:
            self.expire()
        except Exception as error:
            self._fail(error)
            return
        if opened.gathering.open_segments:
            self._arm(opened)

    def _arm(self, opened: _Opened) -> None:
        due_ns = opened.gathering.oldest_arrival_ns + self._linger_ns - opened.intake.clock.monotonic_ns()
        delay_seconds = max(due_ns / 1e9, SHORTEST_TIMER_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay_seconds, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """What exists between open and close."""

    socket: socket.socket
    batch: ReceiveBatch
    gathering: Gathering
    intake: Intake
