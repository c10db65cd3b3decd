"""Run a pcap source over files and see what came out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamspec.core.segment import PACKET_TRUNCATED, SlotLayout
from streamspec.sources.pcap import PcapConfig
from streamspec.testing.intake import Committed, RecordingIntake

LAYOUT = SlotLayout(payload_bytes=64 * 1024, packet_capacity=2048, meta_bytes=256, output_bytes=64)


@dataclass(frozen=True)
class Read:
    """What a source committed and counted."""

    segments: list[Committed]
    counts: dict[str, int]

    @property
    def packets(self) -> list[tuple[int, int, bytes, int]]:
        """``(link type, timestamp, bytes, wire bytes)`` of each packet in order."""
        return [
            (int(s.header["link_type"]), int(row["timestamp_ns"]), content, int(row["wire_bytes"]))
            for s in self.segments
            for row, content in zip(s.packets, s.messages(), strict=True)
        ]

    @property
    def contents(self) -> list[bytes]:
        """Bytes of each packet in order."""
        return [content for s in self.segments for content in s.messages()]

    @property
    def cut(self) -> int:
        """Packets that are marked as cut."""
        return sum(int((s.packets["flags"] & PACKET_TRUNCATED != 0).sum()) for s in self.segments)

    def check(self, layout: SlotLayout) -> None:
        """Every row lies in its payload, in order, and headers agree with the rows."""
        for s in self.segments:
            ends = s.packets["offset"].astype(int) + s.packets["captured_bytes"]
            assert 0 < len(s.packets) <= layout.packet_capacity
            assert ends[-1] == s.header["length"] == len(s.payload) <= layout.payload_bytes
            assert (s.packets["offset"][1:] >= ends[:-1]).all()
            assert (s.packets["wire_bytes"] >= s.packets["captured_bytes"]).all()
            assert s.header["timestamp_ns"] == s.packets["timestamp_ns"][0]
            assert s.header["content"] == 0


async def read_now(path: Path | Sequence[Path], *, layout: SlotLayout = LAYOUT, slots: int = 4, **fields: Any) -> Read:
    """Read to the end in the running loop."""
    intake = RecordingIntake(layout=layout, slots=slots)
    try:
        given = tuple(path) if not isinstance(path, Path) else path
        source = PcapConfig(type="pcap", path=given, **fields).build("capture")
        await source.open(intake)
        async with asyncio.timeout(30):
            await source.run()
        assert intake.arena.free_slots == slots
        return Read(intake.committed, intake.tally.counts)
    finally:
        intake.close()


def read(path: Path | Sequence[Path], *, layout: SlotLayout = LAYOUT, slots: int = 4, **fields: Any) -> Read:
    """Read to the end in a loop of its own."""
    result = asyncio.run(read_now(path, layout=layout, slots=slots, **fields))
    result.check(layout)
    return result
