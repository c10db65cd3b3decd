"""Segments in an arena, as a worker sees them, and the batch that a stage is shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamspec.core.interfaces import SegmentBatch
from streamspec.core.segment import PACKET, SlotLayout
from streamspec.engine.arena import Arena
from streamspec.engine.worker import ArenaSegment


class PlainArena(Arena):
    """An arena in ordinary memory: a stage keeps it for as long as it lives, and with it no descriptor."""

    def __init__(self, layout: SlotLayout, slots: int) -> None:
        self.layout, self.slots, self._stride, self._slots_offset = layout, slots, layout.stride, 0
        self.memory = np.zeros(slots * layout.stride, dtype=np.uint8)
        self._packet_bytes = layout.packet_capacity * PACKET.itemsize

    def close(self) -> None:
        """Nothing to do."""


LAYOUT = SlotLayout(payload_bytes=4096, packet_capacity=32, meta_bytes=64, output_bytes=1024)


def filled(segments: Sequence[Sequence[bytes]], layout: SlotLayout = LAYOUT) -> tuple[Arena, list[ArenaSegment]]:
    """An arena with one slot for each list of packets."""
    arena = PlainArena(layout, max(len(segments), 2))
    return arena, [_fill(arena, number, packets) for number, packets in enumerate(segments)]


def _fill(arena: Arena, number: int, packets: Sequence[bytes]) -> ArenaSegment:
    slot = number
    content = b"".join(packets)
    arena.payload(slot)[: len(content)] = np.frombuffer(content, dtype=np.uint8)
    table = np.zeros(len(packets), dtype=PACKET)
    table["captured_bytes"] = table["wire_bytes"] = [len(packet) for packet in packets]
    table["offset"] = np.cumsum([0, *(len(packet) for packet in packets)])[:-1]
    arena.packets(slot)[: len(packets)] = table
    segment = ArenaSegment(arena)
    start = arena.offset(slot)
    payload = arena.memory.data[start : start + len(content)]
    segment.load(slot, (1000 + number, number, len(content), len(packets), 0, 0, 0, 1, 0, 0), payload)
    return segment


def batch_of(arena: Arena, segments: Sequence[ArenaSegment]) -> SegmentBatch:
    starts = np.array([arena.offset(segment.slot) for segment in segments], dtype=np.int64)
    lengths = np.array([segment.length for segment in segments], dtype=np.int64)
    rows = np.array([segment.packet_count for segment in segments], dtype=np.int64)
    places = np.stack([starts, lengths, starts + arena.layout.packets_offset, rows])
    names = np.array([segment.segment_id for segment in segments], dtype=np.uint64)
    return SegmentBatch(names, places, np.full(len(segments), -1, dtype=np.int16))
