"""Capture files to segments: the ``pcap`` source against a bare ``preadv`` of the same bytes.

``python -m benchmarks.pcap_reading [--json] [--packets 1000000] [--segment-bytes 262144] [--captures FOLDER]``

The capture is made of the real ones in ``--captures`` (or ``STREAMSPEC_CAPTURES``), repeated to the number of
packets, or else of random packets with the sizes of a common mix (64, 576 and 1500 bytes at 7:4:1). The page
cache holds it. Segments are thrown away as soon as they are committed. Times are CPU times of the one thread
that works, the kernel's copying included, so that other processes of the host do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Slots
from streamspec.core.segment import SlotLayout
from streamspec.sources.pcap import PcapConfig
from streamspec.testing.captures import Packet, classic
from streamspec.testing.intake import RecordingIntake

MIXED_SIZES = [64] * 7 + [576] * 4 + [1500]
ROUNDS = 5


class CountingIntake(RecordingIntake):
    """Frees each segment at once."""

    taken_packets = 0
    taken_segments = 0

    def commit(self, slots: Sequence[int] | Slots) -> None:
        for slot in slots:
            self.taken_packets += int(self.headers["packets"][slot])
            self.taken_segments += 1
            self.release(slot)


def layout_for(segment_bytes: int) -> SlotLayout:
    """Slots that packets of 60 bytes fill too."""
    return SlotLayout(segment_bytes, max(segment_bytes // 64, 64), 1024, 4096)


async def _packets_of(path: Path) -> list[Packet]:
    intake = RecordingIntake(slots=8, layout=layout_for(1 << 18))
    source = PcapConfig(type="pcap", path=path).build("capture")
    await source.open(intake)
    await source.run()
    found = [
        Packet(int(row["timestamp_ns"]) & (2**31 * 10**9 - 1), content)
        for segment in intake.committed
        if segment.header["link_type"] == 1
        for row, content in zip(segment.packets, segment.messages(), strict=True)
    ]
    intake.close()
    return found


def sample(captures: Path | None) -> Iterator[Packet]:
    """Packets of real captures, or random ones."""
    if captures is not None and captures.is_dir():
        for path in sorted(captures.glob("*.pcap*")):
            yield from asyncio.run(_packets_of(path))
        return
    source = random.Random(1)
    for i in range(100_000):
        yield Packet(i * 1000, source.randbytes(source.choice(MIXED_SIZES)))


def bare_seconds(path: Path, size: int) -> float:
    """CPU time to copy the file into memory piece by piece, which is the least that any reader does."""
    buffer, position = np.zeros(size, dtype=np.uint8), 0
    with path.open("rb") as file:
        started = time.process_time()
        while count := os.preadv(file.fileno(), [buffer.data], position):
            position += count
        return time.process_time() - started


async def source_seconds(path: Path, segment_bytes: int) -> tuple[float, int, int]:
    """CPU time of the source, and the packets and segments it gave."""
    intake = CountingIntake(slots=16, layout=layout_for(segment_bytes), clock=SystemClock())
    source = PcapConfig(type="pcap", path=path, segment_bytes=segment_bytes).build("capture")
    await source.open(intake)
    started = time.process_time()
    await source.run()
    seconds = time.process_time() - started
    intake.close()
    return seconds, intake.taken_packets, intake.taken_segments


def measure(captures: Path | None, packets: int, segment_bytes: int) -> dict[str, Any]:
    """Best of several rounds of both, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "repeated.pcap"
        once = list(sample(captures))
        header, body = classic([]), classic(once)[24:]
        repeats = -(-packets // len(once))
        with path.open("wb") as file:
            file.write(header)
            for _ in range(repeats):
                file.write(body)
        bare = min(bare_seconds(path, segment_bytes) for _ in range(2))
        runs = []
        for _ in range(ROUNDS):
            runs.append(uvloop.run(source_seconds(path, segment_bytes)))
            bare = min(bare, bare_seconds(path, segment_bytes))
        seconds, count, segments = min(runs)
        return {
            "packets": count,
            "segments": segments,
            "file_bytes": path.stat().st_size,
            "source_ns_per_packet": round(seconds * 1e9 / count, 1),
            "bare_copy_ns_per_packet": round(bare * 1e9 / count, 1),
            "packets_per_cpu_second": round(count / seconds),
            "ratio_to_bare_copy": round(seconds / bare, 2),
        }


def main() -> None:
    """Print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--segment-bytes", type=int, default=256 * 1024)
    parser.add_argument("--captures", type=Path, default=os.environ.get("STREAMSPEC_CAPTURES"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.captures, arguments.packets, arguments.segment_bytes)
    print(json.dumps(result) if arguments.json else "\n".join(f"{k:26} {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
