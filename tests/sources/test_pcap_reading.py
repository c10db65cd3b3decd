"""Windows read by one kernel: the same packets as one window at a time, whatever the file and its damage."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.segment import SlotLayout
from streamspec.sources import capture_walk
from tests.sources.reading import Read, read

LAYOUT = SlotLayout(payload_bytes=8192, packet_capacity=24, meta_bytes=64, output_bytes=64)

pytestmark = pytest.mark.skipif(not capture_walk.AVAILABLE, reason="no preadv2 here")


def _capture(sizes: list[int], order: str, nanoseconds: bool) -> bytes:
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, 1)]
    for number, size in enumerate(sizes):
        header = struct.pack(f"{order}IIII", 1_700_000_000 + number, number, size, size + number % 3)
        parts.append(header + bytes([number & 255]) * size)
    return b"".join(parts)


def _packets(result: Read) -> list[tuple[bytes, int, int, int, bytes]]:
    """In order; which segment holds a packet may differ where the file ends in the next record's header."""
    return [
        (
            segment.key,
            int(segment.header["link_type"]),
            int(row["timestamp_ns"]),
            int(row["wire_bytes"]),
            segment.payload[row["offset"] : row["offset"] + row["captured_bytes"]],
        )
        for segment in result.segments
        for row in segment.packets
    ]


@settings(deadline=None, max_examples=80)
@given(
    sizes=st.lists(st.integers(0, 600) | st.integers(3000, 9000), max_size=120),
    order=st.sampled_from("<>"),
    nanoseconds=st.booleans(),
    damage=st.lists(st.tuples(st.integers(24, 20_000), st.integers(0, 255)), max_size=2),
    left=st.floats(0.3, 1.0) | st.just(1.0),
    after_damage=st.sampled_from(["end", "search"]),
)
def test_it_is_the_same_as_window_by_window(
    sizes: list[int],
    order: str,
    nanoseconds: bool,
    damage: list[tuple[int, int]],
    left: float,
    after_damage: str,
) -> None:
    content = np.frombuffer(_capture(sizes, order, nanoseconds), dtype=np.uint8).copy()
    for place, value in damage:
        if place < len(content):
            content[place] = value
    content = content[: max(24, int(len(content) * left))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture.pcap"
        path.write_bytes(content.tobytes())
        fields = {"layout": LAYOUT, "slots": 8, "segment_bytes": 4096, "after_damage": after_damage}
        together = read(path, **fields)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(capture_walk, "AVAILABLE", False)
            alone = read(path, **fields)
    together.check(LAYOUT)
    assert _packets(together) == _packets(alone)
    assert together.counts == alone.counts
