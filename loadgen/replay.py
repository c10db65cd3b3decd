"""Replay of captures: their payloads (or whole packets) at the recorded times, gaps clamped."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loadgen.capture import Packet, read_capture
from loadgen.errors import UsageError
from loadgen.layers import transport_payload
from loadgen.load import Delivery, Run
from loadgen.pool import make_pool
from loadgen.report import Report
from loadgen.schedule import BLOCK_MESSAGES, Block


@dataclass
class Recording:
    """Messages of captures in order.

    Attributes:
        times_ns: from the start, ascending: a gap is never negative and never longer than asked for.
        keys: by flow, so that the messages of a flow stay in order.
        skipped: packets that were not taken, by reason.
    """

    bodies: list[bytes] = field(default_factory=list)
    times_ns: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        """Count a packet that is left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def record(
    paths: Sequence[Path], *, speed: float, max_gap_seconds: float, whole: bool, keys: int, largest_bytes: int
) -> Recording:
    """Read the captures one behind the other. Raises UsageError when there is nothing to send."""
    recording = Recording()
    now_ns = 0
    for path in paths:
        last_ns: int | None = None
        for packet in read_capture(path):
            gap_ns = 0 if last_ns is None else packet.timestamp_ns - last_ns
            last_ns = packet.timestamp_ns
            now_ns += int(min(max(gap_ns, 0), max_gap_seconds * 1e9) / speed)
            flow, content = _content(packet, whole=whole)
            if not content:
                recording.skip("no_payload")
                continue
            if len(content) > largest_bytes:
                recording.skip("too_long")
                continue
            recording.bodies.append(content)
            recording.times_ns.append(now_ns)
            recording.keys.append(zlib.crc32(flow) % keys)
    if not recording.bodies:
        raise UsageError(f"nothing to send in {', '.join(map(str, paths))}; packets left out: {recording.skipped}")
    return recording


def _content(packet: Packet, *, whole: bool) -> tuple[bytes, bytes]:
    """What is sent of a packet, and its flow: addresses and ports, or the link's addresses without those."""
    payload = transport_payload(packet)
    if whole:
        return (packet.content[:12] if payload is None else payload.flow), packet.content
    return (b"", b"") if payload is None else payload


def recording_blocks(recording: Recording, *, lines: bool) -> Iterator[Block]:
    """The recording as blocks."""
    pool = make_pool(recording.bodies, [0] * len(recording.bodies), ("replay",), lines=lines)
    times = np.array(recording.times_ns, dtype=np.int64)
    keys = np.array(recording.keys, dtype=np.int32)
    for start in range(0, len(times), BLOCK_MESSAGES):
        end = min(start + BLOCK_MESSAGES, len(times))
        messages = np.arange(start, end, dtype=np.int32)
        yield Block(times[start:end], keys[start:end], messages, pool, "replay")


def replay(
    paths: Sequence[Path],
    delivery: Delivery,
    *,
    speed: float = 1.0,
    max_gap_seconds: float = 1.0,
    whole: bool = False,
    keys: int = 8,
) -> Report:
    """Send the captures and report.

    Args:
        speed: recorded seconds per second.
        max_gap_seconds: longer gaps are shortened to it; times that run backwards count as no gap.
        whole: packets with their headers instead of transport payloads.
        keys: sockets or connections; flows are spread over them.
    """
    largest = delivery.target.largest_bytes - delivery.marker_bytes
    recording = record(
        paths, speed=speed, max_gap_seconds=max_gap_seconds, whole=whole, keys=keys, largest_bytes=largest
    )
    blocks = recording_blocks(recording, lines=delivery.target.lines)
    report = Run(blocks, delivery, keys=keys, name=f"replay of {len(paths)} captures").send()
    report.skipped = recording.skipped
    return report
