"""Source ``pcap``: capture files, as fast as the pipeline takes them or at the speed of their recording.

Classic captures (both byte orders, micro- and nanoseconds) and pcapng (sections, interfaces), also inside
gzip or zstd; the content decides, not the name. A window of the file is read into the payload of a slot as it
is, record headers included, and a kernel walks the headers there (:mod:`streamspec.sources.pcap_kernels`):
offsets in the packet table point at the packets inside. Python works per segment, never per packet.

A file's name is the stream key, so the order of a capture is kept. Damage never stops the stream. Counted in
the tally: ``malformed_file``, ``unreadable_file``, ``truncated_record``, ``malformed_record``,
``malformed_block``, ``malformed_bytes`` (passed over in search of the next sound record or block),
``malformed_compression``, ``unknown_interface``, ``oversized_packets`` (longer than a slot, cut).
"""

from __future__ import annotations

import asyncio
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import structlog
from pydantic import Field

from streamspec.core.component import SourceConfigBase
from streamspec.core.errors import DependencyUnavailable, InternalError
from streamspec.core.interfaces import Intake
from streamspec.core.paths import InputFile
from streamspec.core.segment import PACKET
from streamspec.core.units import Bytes, Seconds

if TYPE_CHECKING:
    from streamspec.sources.capture_file import CaptureFile
    from streamspec.sources.capture_walk import CaptureWalk
    from streamspec.sources.replay_pace import ReplayPace

_log = structlog.get_logger("streamspec.sources.pcap")

KIB = 1024
WINDOWS_PER_TURN = 4
"""Windows handed in together, and until the event loop gets its turn: up to a millisecond."""


class PcapConfig(SourceConfigBase):
    """Read packets from capture files."""

    type: Literal["pcap"] = Field(description="Packets from capture files (pcap, pcapng, also gzip or zstd).")
    path: InputFile | tuple[InputFile, ...] = Field(
        description="File, pattern (`captures/*.pcap*`, `**` for folders at any depth), or list of them. Patterns are "
        "read in order of names, a list in its own.",
    )
    speed: Literal["max", "recorded"] = Field(
        default="max",
        description="`max`: as fast as the pipeline takes it; `recorded`: with the gaps between packets as recorded, "
        "and latency counted from the time that a packet was due.",
    )
    speed_factor: float = Field(
        default=1.0,
        ge=1e-3,
        le=1e6,
        description="With `speed: recorded`, how many recorded seconds pass in one second (0.001 to 1000000).",
    )
    max_gap: Seconds = Field(
        default=1.0,
        ge=0,
        le=86_400,
        description="With `speed: recorded`, longest gap between two packets in recorded seconds (0 to 86400): longer "
        "ones, also those between files, are cut to it. Time that runs backwards counts as no gap.",
    )
    linger: Seconds = Field(
        default=0.001,
        ge=0,
        le=60,
        description="With `speed: recorded`, seconds that a segment stays open for the packets that follow (0 to 60). "
        "Longer gives fuller segments, and adds as much latency.",
    )
    segment_bytes: Bytes = Field(
        default=256 * KIB,
        ge=4 * KIB,
        le=256 * KIB * KIB,
        description="Bytes of a file in one segment (4 KiB to 256 MiB, at most the engine's). Larger segments cost "
        "less per packet and take longer in a stage.",
    )
    after_damage: Literal["end", "search"] = Field(
        default="end",
        description="What becomes of the rest of a file behind a record or block with impossible lengths. `end`: the "
        "next file follows, as in tcpdump; `search`: the next sound record is searched for.",
    )
    repeat: int = Field(
        default=1,
        ge=0,
        le=1_000_000_000,
        description="How often all files are read (0 to 1e9); 0 means until the service is stopped.",
    )

    def build(self, name: str) -> PcapSource:
        """The source, not yet opened."""
        return PcapSource(name, self)


class PcapSource:
    """Implements ``Source``."""

    can_wait = True

    def __init__(self, name: str, config: PcapConfig) -> None:
        self._where = f"sources.{name}"
        self._config = config
        self._paths: list[Path] = []
        self._stopping = asyncio.Event()
        self._intake: Intake | None = None
        self._pace: ReplayPace | None = None
        self._packets = 0
        self._passes = 0

    # -- life ---------------------------------------------------------------------------------
    async def open(self, intake: Intake) -> None:
        """Find the files and load the kernels.

        Raises:
            DependencyUnavailable: a file is missing, no file fits a pattern, or one may not be read.
        """
        from streamspec.sources.capture_walk import load_kernels
        from streamspec.sources.replay_pace import ReplayPace

        paths = self._config.path if isinstance(self._config.path, tuple) else (self._config.path,)
        self._paths = [found for path in paths for found in self._find(path)]
        load_kernels()
        self._intake = intake
        if self._config.speed == "recorded":
            config = self._config
            self._pace = ReplayPace(
                intake.clock, config.speed_factor, round(config.max_gap * 1e9), round(config.linger * 1e9)
            )

    def _find(self, path: Path) -> list[Path]:
        where = f"{self._where}.path"
        found = [path]
        if not path.exists() and glob.has_magic(str(path)):
            found = sorted(p for p in map(Path, glob.iglob(str(path), recursive=True)) if p.is_file())
            if not found:
                raise DependencyUnavailable(
                    "no file fits the pattern", where=where, value=str(path), next_step=f"see `ls {path}`"
                )
        for file in found:
            if not file.is_file():
                fault = "is not a file" if file.exists() else "does not exist"
                raise DependencyUnavailable(
                    f"the capture {fault}",
                    where=where,
                    value=str(path),
                    allowed="a file, a pattern such as captures/*.pcap, or a list of them; pipes are not read",
                    next_step="write the path of a capture file",
                )
            if not os.access(file, os.R_OK):
                raise DependencyUnavailable(
                    "the capture may not be read",
                    where=where,
                    value=str(file),
                    next_step=f"give this user the right to read it (ls -l {file})",
                )
        return found

    async def run(self) -> None:
        """Read all files, as often as configured, or until :meth:`stop`."""
        if self._intake is None:
            raise InternalError("run before open", where=self._where)
        repeat = self._config.repeat
        while not self._stopping.is_set() and (self._passes < repeat or not repeat):
            before = self._packets
            for path in self._paths:
                await self._read_file(self._intake, path)
            self._passes += 1
            if self._packets == before:
                break  # nothing to read in them, however often

    async def stop(self) -> None:
        """Take nothing new in; :meth:`run` returns soon. Safe to call twice."""
        self._stopping.set()

    # -- files --------------------------------------------------------------------------------
    async def _read_file(self, intake: Intake, path: Path) -> None:
        from streamspec.sources.capture_file import open_capture

        if self._stopping.is_set():
            return
        try:
            file = open_capture(path)
            try:
                await self._read_open_file(intake, path, file)
            finally:
                file.close()
        except OSError as error:
            intake.tally.add("unreadable_file")
            _log.warning("capture cannot be read", where=self._where, path=str(path), error=error.strerror)

    async def _read_open_file(self, intake: Intake, path: Path, file: CaptureFile) -> None:
        from streamspec.sources.capture_walk import CaptureWalk

        faults: dict[str, int] = {}
        search = self._config.after_damage == "search"
        walk = await CaptureWalk.begin(intake, file, path, self._config.segment_bytes, search)
        if walk is None:
            faults["malformed_file"] = 1
        else:
            try:
                await (self._pass_on(walk) if self._pace is None else self._replay(walk, self._pace))
            finally:
                self._packets += walk.packets
                faults.update(walk.faults())
        if file.faults:
            faults["malformed_compression"] = file.faults
        if faults:
            intake.tally.merge(faults)
            # each file is told once, however many there are
            _log.warning("damaged capture", where=self._where, path=str(path), always=not self._passes, **faults)

    async def _pass_on(self, walk: CaptureWalk) -> None:
        """Segments as fast as there is room, a few at a time; each window is read into the slot itself."""
        intake = walk.intake
        while not walk.ended and (first := await self._slot(intake)) >= 0:
            slots = np.array([first, *self._further_slots(intake)], dtype=np.int32)
            try:
                await walk.fill_windows(slots, intake.clock.monotonic_ns())
            finally:
                if walk.filled:
                    intake.commit(slots[: walk.filled])
                for slot in slots[walk.filled :].tolist():
                    intake.release(slot)
            await asyncio.sleep(0)

    @staticmethod
    def _further_slots(intake: Intake) -> Iterator[int]:
        for _ in range(WINDOWS_PER_TURN - 1):
            slot = intake.acquire()
            if slot < 0:
                return
            yield slot

    async def _replay(self, walk: CaptureWalk, pace: ReplayPace) -> None:
        """Segments when they are due. Windows are read ahead into memory of their own, since how much of one
        is due together shows only afterwards."""
        intake = walk.intake
        window = np.zeros(intake.layout.payload_bytes, dtype=np.uint8)
        table = np.zeros(intake.layout.packet_capacity, dtype=PACKET)
        while not walk.ended and not self._stopping.is_set():
            pace.take(table, await walk.next_window(window, table))
            while pace.left and await pace.wait(self._stopping):
                slot = await self._slot(intake)
                if slot < 0:
                    return
                rows = intake.packets(slot)
                arrival_ns, count = pace.give(window, intake.payload(slot), rows)
                if count:
                    walk.fill(slot, rows, count, arrival_ns)
                    intake.commit([slot])
                else:
                    intake.release(slot)
                await asyncio.sleep(0)

    # -- segments -----------------------------------------------------------------------------
    async def _slot(self, intake: Intake) -> int:
        """An empty slot, however long it takes; -1 when the source was stopped."""
        while not self._stopping.is_set():
            slot = intake.acquire()
            if slot >= 0:
                return slot
            waits = {asyncio.ensure_future(intake.wait_for_room()), asyncio.ensure_future(self._stopping.wait())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return -1
