"""``streamspec profile``: the features of files and captures, of segments as the service would cut them.

A capture is read by the source ``pcap`` itself; anything else is cut into segments of one message each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Bytes, Clock, Rows, Slots
from streamspec.core.segment import CONTENT_PACKETS, PACKET, SlotLayout
from streamspec.core.tally import Tally
from streamspec.engine.arena import Arena
from streamspec.profiler.kernels import NO_LINK
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiler.report import Row, cut_file, rows_of, segment_table, to_json_line, type_table, write_charts
from streamspec.sources.pcap import PcapConfig

Emit = Callable[[Row], None]


class ProfilingIntake:
    """Implements ``Intake``: profiles what a source commits, and frees it at once."""

    def __init__(self, arena: Arena, take: Callable[[Content], None]) -> None:
        self._arena = arena
        self._take = take
        self.layout = arena.layout
        self.memory: Bytes = arena.memory
        self.headers: Rows = arena.headers
        self.clock: Clock = SystemClock()
        self.tally = Tally()
        self.acquire = arena.acquire
        self.acquire_many = arena.acquire_many
        self.acquire_by_shedding = arena.acquire
        self.release = arena.release
        self.offset = arena.offset
        self.payload = arena.payload
        self.packets = arena.packets

    def set_key(self, slot: int, key: bytes, meta: bytes = b"") -> None:
        """Keys do not matter here."""

    def commit(self, slots: Sequence[int] | Slots) -> None:
        for slot in map(int, slots):
            row = self.headers[slot]
            packets = self._arena.packets(slot)[: row["packets"]].copy().view(PACKET)
            link_type = int(row["link_type"]) if row["content"] == CONTENT_PACKETS else NO_LINK
            self._take(Content(self._arena.payload(slot)[: row["length"]].tobytes(), packets, link_type))
            self._arena.release(slot)

    def reject(self, slot: int, error: str) -> None:
        """What cannot be read has no features."""
        self._arena.release(slot)

    async def wait_for_room(self) -> None:
        """There is always room."""


def profile_paths(paths: Iterable[Path], profiler: Profiler, segment_bytes: int, emit: Emit) -> None:
    """Emit a row for each segment of each file; folders are read with all files in them, in order of names.

    Raises:
        DependencyUnavailable: a file cannot be read.
    """
    for path in paths:
        if path.is_dir():
            profile_paths(sorted(p for p in path.rglob("*") if p.is_file()), profiler, segment_bytes, emit)
        elif not _profile_capture(path, profiler, segment_bytes, emit):
            for row in rows_of(profiler, cut_file(path, segment_bytes)):
                emit(row)


def _profile_capture(path: Path, profiler: Profiler, segment_bytes: int, emit: Emit) -> bool:
    """False when the file is no capture."""
    segments = 0

    def take(content: Content) -> None:
        nonlocal segments
        for row in rows_of(profiler, [(path.name, content)]):
            emit(row | {"segment": segments})
        segments += 1

    layout = SlotLayout(max(segment_bytes, 1 << 18), max(segment_bytes // 16, 4096), 1024, 64)
    return read_capture(path, segment_bytes, layout, take)


def read_capture(path: Path, segment_bytes: int, layout: SlotLayout, take: Callable[[Content], None]) -> bool:
    """Call ``take`` with each segment of a capture, cut as the source ``pcap`` does it in slots of this layout.

    Returns:
        False when the file is no capture.

    Raises:
        DependencyUnavailable: it cannot be read.
    """
    arena = Arena(layout, 4)
    intake = ProfilingIntake(arena, take)
    source = PcapConfig(type="pcap", path=path, segment_bytes=segment_bytes).build("profile")

    async def read() -> None:
        await source.open(intake)
        await source.run()

    try:
        asyncio.run(read())
    finally:
        del intake.memory, intake.headers
        arena.close()
    return not intake.tally["malformed_file"]


def run_profile(
    paths: Sequence[Path], *, segment_bytes: int, every_byte: bool, as_json: bool, plot: Path | None
) -> None:
    """Print the features as JSON lines, or as a table by segment and one by type; with ``plot`` write charts too."""
    profiler = Profiler(sample_bytes=0) if every_byte else Profiler()
    rows: list[Row] = []
    keep = plot is not None or not as_json

    def emit(row: Row) -> None:
        if as_json:
            sys.stdout.buffer.write(to_json_line(row))
        if keep:
            rows.append(row)

    profile_paths(paths, profiler, segment_bytes, emit)
    sys.stdout.flush()
    if not as_json:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(segment_table(rows))
        console.print(type_table(rows))
    if plot is not None:
        write_charts(rows, plot)
