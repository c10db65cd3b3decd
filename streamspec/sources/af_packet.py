"""Source ``af_packet``: packets of a network interface, out of a ring shared with the kernel (TPACKET_V3).

The kernel fills blocks of the ring; when one is full, or its time is up, the socket becomes readable and a
compiled kernel copies its packets into segments (:mod:`streamspec.sources.af_packet_kernels`) before it gives
the block back. Python works per block and per segment, never per packet. The source cannot wait: without a
free slot it sheds through its intake, and when even that gives none, blocks stay in the ring until it is full
and the kernel drops.

There is no filter language: the packets of an interface are taken as they are. Counted in the tally:
``kernel_drops`` (ring full), ``ring_freezes`` (times that it became full), ``oversized_packets`` (longer than
a slot, cut), ``arena_full_drops`` (left in the ring at the stop), ``interface_down``, ``interface_lost``.
"""

from __future__ import annotations

import asyncio
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import structlog
from pydantic import Field, field_validator

from streamspec.core.component import ComponentConfig, SourceConfigBase
from streamspec.core.errors import DependencyUnavailable, InternalError
from streamspec.core.interfaces import Intake
from streamspec.core.units import Bytes, Seconds

if TYPE_CHECKING:
    from streamspec.sources.af_packet_reception import Reception
    from streamspec.sources.af_packet_ring import PacketRing

_log = structlog.get_logger("streamspec.sources.af_packet")

KIB = 1024
MIB = 1024 * KIB
POLL_SECONDS = 1.0
"""How often drops are read, and whether the interface is still there."""
BLOCKS_PER_WAKEUP = 4
"""Blocks until the event loop gets its turn."""
ROOM_SECONDS = 0.01
"""How long to wait for room before asking again: this source may use slots that are kept from others."""
LAST_BLOCK_SECONDS = 0.001
"""Between two looks at the last block while stopping."""
DRAIN_SECONDS = 1.0
"""How long a stop waits for the last block, and for room for what the ring holds."""


class FanoutConfig(ComponentConfig):
    """Share the packets of an interface among several sockets, of this process or of others (packet(7))."""

    group: int = Field(ge=0, le=65535, description="Number of the group (0 to 65535); its members share the packets.")
    mode: Literal["hash", "lb", "cpu", "rollover"] = Field(
        default="hash",
        description="`hash`: all packets of a flow to one member; `lb`: in turn; `cpu`: by the CPU that received it; "
        "`rollover`: to the next member when one is full. The same for all members.",
    )


class AfPacketConfig(SourceConfigBase):
    """Capture the packets of a network interface. Needs CAP_NET_RAW."""

    type: Literal["af_packet"] = Field(description="Packets of a network interface (Linux).")
    interface: str = Field(min_length=1, max_length=15, description="Network interface, e.g. `eth0` or `lo`.")
    segment_bytes: Bytes = Field(
        default=256 * KIB,
        ge=1,
        le=256 * MIB,
        description="Payload in bytes at which a segment is full (1 B to 256 MiB, at most the engine's). Larger "
        "segments cost less per packet.",
    )
    linger: Seconds = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="Seconds that a segment stays open for the packets of further blocks (0 to 3600), on top of "
        "`block_timeout`. Longer gives fuller segments at low rates, and adds as much latency.",
    )
    block_bytes: Bytes = Field(
        default=1 * MIB,
        ge=16 * KIB,
        le=64 * MIB,
        description="Size of a block of the ring, in bytes (16 KiB to 64 MiB, a multiple of the page size). A packet "
        "longer than a block is cut.",
    )
    blocks: int = Field(
        default=64,
        ge=2,
        le=65536,
        description="Blocks of the ring (2 to 65536). `block_bytes * blocks` of memory that the kernel cannot swap; "
        "more absorbs longer stalls before `kernel_drops`.",
    )
    block_timeout: Seconds = Field(
        default=0.005,
        ge=0.001,
        le=60,
        description="Seconds after which the kernel hands over a block that is not full (0.001 to 60, in steps of a "
        "millisecond). Shorter gives lower latency at low rates, and more wake-ups.",
    )
    snap_bytes: Bytes | None = Field(
        default=None,
        ge=14,
        le=1 * MIB,
        description="Bytes that are kept of each packet (14 B to 1 MiB; default: all). Fewer put more packets into the "
        "ring.",
    )
    promiscuous: bool = Field(
        default=True, description="Also take packets that are addressed to other hosts, as a sensor on a mirror port."
    )
    outgoing: bool | None = Field(
        default=None,
        description="Also take what this host sends (default: yes, but not on a loopback interface, where each packet "
        "would be seen twice).",
    )
    fanout: FanoutConfig | None = Field(default=None, description="Share the packets with other sockets.")

    @field_validator("block_bytes")
    @classmethod
    def _block_is_of_pages(cls, value: int) -> int:
        if value % mmap.PAGESIZE:
            raise ValueError(f"not a multiple of the page size, {mmap.PAGESIZE} bytes: {value}")
        return value

    def build(self, name: str) -> AfPacketSource:
        """The source, not yet opened."""
        return AfPacketSource(name, self)


class AfPacketSource:
    """Implements ``Source`` and ``ClosableSource``."""

    can_wait = False

    def __init__(self, name: str, config: AfPacketConfig) -> None:
        self._where = f"sources.{name}"
        self._config = config
        self._linger_ns = round(config.linger * 1e9)
        self._stopping = asyncio.Event()
        self._attention = asyncio.Event()  # wakes `run`: a stop, a failure, or no slot
        self._failure: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._intake: Intake | None = None
        self._opened: _Opened | None = None  # also None while the interface is gone

    # -- life ---------------------------------------------------------------------------------
    async def open(self, intake: Intake) -> None:
        """Open the ring and load the kernels. From here on the kernel collects packets.

        Raises:
            DependencyUnavailable: unknown interface, no CAP_NET_RAW, the ring's memory, or a fanout group of
                another mode.
        """
        from streamspec.sources.af_packet_reception import load_kernels

        load_kernels()
        self._intake = intake
        self._opened = self._open_ring(intake)

    def _open_ring(self, intake: Intake) -> _Opened:
        from streamspec.sources.af_packet_reception import Reception
        from streamspec.sources.af_packet_ring import PacketRing, RingOptions

        config = self._config
        options = RingOptions(
            interface=config.interface,
            block_bytes=config.block_bytes,
            blocks=config.blocks,
            block_timeout_ms=max(1, round(config.block_timeout * 1000)),
            snap_bytes=config.snap_bytes,
            promiscuous=config.promiscuous,
            outgoing=config.outgoing,
            fanout=None if config.fanout is None else (config.fanout.group, config.fanout.mode),
        )
        ring = PacketRing(options, self._where)
        return _Opened(intake, ring, Reception(intake, ring, config.interface.encode(), config.segment_bytes))

    async def run(self) -> None:
        """Receive until :meth:`stop`, then take in what the ring still holds."""
        if self._intake is None:
            raise InternalError("run before open", where=self._where)
        try:
            await self._until_stopped(self._intake)
            if self._opened is not None:
                await self._drain(self._opened)
        finally:
            self._disarm()
            if self._opened is not None:
                self._opened.reception.close_segment()
                self._opened.reception.count_losses()

    async def _until_stopped(self, intake: Intake) -> None:
        self._watch()
        try:
            while not self._stopping.is_set():
                try:
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._attention.wait()
                except TimeoutError:
                    pass
                if self._failure is not None:
                    raise self._failure
                if self._attention.is_set() and not self._stopping.is_set():
                    await self._wait_for_room(intake)
                    self._attention.clear()
                    self._watch()
                self._look_after(intake)
        finally:
            self._unwatch()

    async def stop(self) -> None:
        """Take nothing new in; :meth:`run` returns after what the ring holds already. Safe to call twice."""
        self._stopping.set()
        self._attention.set()

    async def close(self) -> None:
        """Give the ring back to the kernel. Safe to call twice."""
        self._disarm()
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.reception.abandon()

    # -- packets ------------------------------------------------------------------------------
    def _watch(self) -> None:
        if self._opened is not None:
            asyncio.get_running_loop().add_reader(self._opened.ring.socket.fileno(), self._on_readable)

    def _unwatch(self) -> None:
        if self._opened is not None:
            asyncio.get_running_loop().remove_reader(self._opened.ring.socket.fileno())

    def _on_readable(self) -> None:
        if self._opened is None:
            return
        try:
            self._receive(self._opened)
        except Exception as error:  # the loop would only log it; `run` has to end with it
            self._failure = error
            self._attention.set()

    def _receive(self, opened: _Opened) -> None:
        from streamspec.sources.af_packet_reception import WITHOUT_SLOT

        if not opened.ring.is_ready:
            self._look_at_error(opened)
        if opened.reception.take(BLOCKS_PER_WAKEUP) == WITHOUT_SLOT:
            self._unwatch()  # or it would be called again and again
            self._attention.set()
        elif not opened.ring.is_ready:
            self.expire()

    def _look_at_error(self, opened: _Opened) -> None:
        if opened.ring.pending_error():
            opened.intake.tally.add("interface_down")
            _log.warning("interface is down", where=self._where, interface=self._config.interface)
            # libuv no longer watches a descriptor that reported an error
            self._unwatch()
            self._watch()

    async def _wait_for_room(self, intake: Intake) -> None:
        room = asyncio.ensure_future(intake.wait_for_room())
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            waits = [room] if self._stopping.is_set() else [room, stop]
            await asyncio.wait(waits, timeout=ROOM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            stop.cancel()

    async def _drain(self, opened: _Opened) -> None:
        """Empty the ring. Nothing gets in any more, so heavy traffic cannot hold the stop up."""
        from streamspec.sources.af_packet_reception import WITHOUT_SLOT

        loop = asyncio.get_running_loop()
        opened.ring.filter(0)
        deadline = loop.time() + max(DRAIN_SECONDS, 2 * self._config.block_timeout)
        while not opened.ring.is_empty and loop.time() < deadline:
            why = opened.reception.take(BLOCKS_PER_WAKEUP)
            if why == WITHOUT_SLOT:
                await self._wait_for_room(opened.intake)
            else:  # the last block is handed over when its time is up
                await asyncio.sleep(0 if opened.ring.is_ready else LAST_BLOCK_SECONDS)

    # -- linger -------------------------------------------------------------------------------
    @property
    def open_packets(self) -> int:
        """Packets in the open segment."""
        return 0 if self._opened is None else self._opened.reception.open_packets

    def expire(self) -> None:
        """Commit the open segment if it has lingered long enough by the intake's clock, or come back when it has;
        the timer calls it."""
        opened = self._opened
        since_ns = None if opened is None else opened.reception.opened_ns
        if opened is None or since_ns is None:
            return
        left_ns = since_ns + self._linger_ns - opened.intake.clock.monotonic_ns()
        if left_ns <= 0:
            opened.reception.close_segment()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left_ns / 1e9, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- interface ----------------------------------------------------------------------------
    def _look_after(self, intake: Intake) -> None:
        """Count losses. An interface that was removed and made anew under the same name is captured again."""
        opened = self._opened
        if opened is None:
            self._reopen(intake)
            return
        opened.reception.count_losses()
        if opened.ring.has_interface():
            return
        self._unwatch()
        self._disarm()
        self._opened = None
        opened.reception.take(self._config.blocks)
        opened.reception.abandon()
        intake.tally.add("interface_lost")
        _log.warning("interface is gone", where=self._where, interface=self._config.interface)

    def _reopen(self, intake: Intake) -> None:
        try:
            self._opened = self._open_ring(intake)
        except DependencyUnavailable:
            return  # not there yet
        self._watch()
        _log.info("interface is back", where=self._where, interface=self._config.interface)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What exists between open and close."""

    intake: Intake
    ring: PacketRing
    reception: Reception
