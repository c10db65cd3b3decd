"""What looking into segments costs on one core, beside plain NumPy computing the entropy alone.

``python -m benchmarks.profiler [--json] [--rounds N]``. Segments of three sizes lie in an arena of 48 MB. Batch by
batch they are written, as a source would, and then profiled as the dispatcher does it: headers, packet tables and
inferred types included. Packets come from the folder of real captures (``STREAMSPEC_CAPTURES``) or, without it, are
generated. Times are of this thread's CPU, for each batch the best of some rounds; profiler and peer take turns on it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_COUNT, MAX_PATTERN_GROUPS
from streamspec.core.interfaces import Slots
from streamspec.core.segment import CONTENT_PACKETS, LINK_ETHERNET, SlotLayout
from streamspec.engine.arena import Arena
from streamspec.profiler.config import ProfilerConfig
from streamspec.profiler.profiler import Content, Profiler
from streamspec.profiler.report import cut_packets
from streamspec.profiler.sampling_kernels import DEFAULT_SAMPLE_BYTES

CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[2] / "shared" / "pcaps"))
ARENA_BYTES = 48 << 20
PATTERNS = {
    "web": ("GET /", "POST /", r"HTTP/1\.[01] [0-9]{3}"),
    "secrets": (r"password[=:]", r"Authorization: Basic", r"AKIA[0-9A-Z]{16}"),
    "scripts": (r"<script", r"eval\(", r"/bin/sh"),
}


# -- segments ---------------------------------------------------------------------------------
def captured_packets() -> Iterator[bytes]:
    """Ethernet packets of all well-formed captures, file by file."""
    import dpkt

    for path in sorted(CAPTURES.glob("*.pcap*")):
        with path.open("rb") as file:
            try:
                reader = dpkt.pcap.UniversalReader(file)
                if reader.datalink() == LINK_ETHERNET:
                    yield from (packet for _, packet in reader)
            except (ValueError, dpkt.Error, AttributeError, KeyError):
                continue


def generated_packets() -> Iterator[bytes]:
    """Text, JSON, numbers, zeros, compressed and encrypted bytes, a hundred packets of each in turn."""
    noise = random.Random(1)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "request", "latency", "error"]
    while True:
        kind = noise.randrange(6)
        for number in range(100):
            text = " ".join(noise.choices(words, k=220)).encode()
            rows = b"".join(
                b'{"id": %d, "value": %d.5, "ok": true},' % (number, noise.randrange(999)) for _ in range(30)
            )
            numbers = (np.arange(340, dtype="<f4") * number).tobytes()
            body = (text, rows, numbers, bytes(1300), zlib.compress(text + rows), noise.randbytes(1400))[kind]
            yield bytes(12) + b"\x08\x00" + body[:1400]


def cut(packets: Iterator[bytes], size: int) -> Iterator[Content]:
    """Segments between three quarters of ``size`` and ``size``."""
    for _, content in cut_packets("", packets, LINK_ETHERNET, size):
        if 3 * size // 4 <= len(content.payload) <= size:
            yield content


def fill_arena(size: int) -> tuple[Arena, Slots, str]:
    """An arena full of segments of about ``size`` bytes, their slots, and where the packets come from."""
    layout = SlotLayout(size, max(size // 60, 16), 64, 64)
    slots = min(ARENA_BYTES // layout.stride, 20_000)
    source, name = (captured_packets(), "real captures") if CAPTURES.is_dir() else (generated_packets(), "generated")
    arena = Arena(layout, slots)
    used = []
    for content in itertools.islice(cut(source, size), slots):
        if content.packets is None or len(content.packets) > layout.packet_capacity:
            continue
        slot = arena.acquire()
        arena.payload(slot)[: len(content.payload)] = np.frombuffer(content.payload, dtype=np.uint8)
        arena.packets(slot)[: len(content.packets)] = content.packets
        header = arena.headers[slot : slot + 1]
        header["length"], header["packets"] = len(content.payload), len(content.packets)
        header["content"], header["link_type"] = CONTENT_PACKETS, LINK_ETHERNET
        used.append(slot)
    return arena, np.array(used, dtype=np.int32), name


# -- measurement ------------------------------------------------------------------------------
Action = Callable[[Arena, Slots], object]


def profiling(profiler: Profiler, batch: int) -> Action:
    """Profile some slots, ``batch`` at a time."""
    out = np.zeros((batch, FEATURE_COUNT), dtype=np.float32)

    def run(arena: Arena, slots: Slots) -> None:
        for first in range(0, len(slots), batch):
            some = slots[first : first + batch]
            profiler.profile(arena, arena.headers, some, out[: len(some)])

    return run


def matching(profiler: Profiler) -> Action:
    """Count the patterns in some slots."""

    def run(arena: Arena, slots: Slots) -> None:
        out = np.zeros((len(slots), MAX_PATTERN_GROUPS), dtype=np.float32)
        profiler.count_patterns(arena, arena.headers, slots, out)

    return run


def entropy_by_numpy(arena: Arena, slots: Slots) -> list[float]:
    """The peer: histogram and entropy of every segment, nothing else."""
    found = []
    for slot, length in zip(slots.tolist(), arena.headers["length"][slots].tolist(), strict=True):
        counts = np.bincount(arena.payload(slot)[:length], minlength=256)
        shares: npt.NDArray[np.float64] = counts[counts > 0] / length
        found.append(float(-(shares * np.log2(shares)).sum()))
    return found


def take_turns(arena: Arena, slots: Slots, written: int, rounds: int, actions: list[Action]) -> list[int]:
    """CPU time of each action over all slots, in nanoseconds: sums over batches of ``written`` slots of the least of
    some rounds. Before each, the batch is written again."""
    totals = [0] * len(actions)
    for first in range(0, len(slots), written):
        some = slots[first : first + written]
        regions = [
            arena.payload(slot)[:length] for slot, length in zip(some, arena.headers["length"][some], strict=True)
        ]
        received = [region.copy() for region in regions]
        best = [1 << 62] * len(actions)
        for _, (index, action) in itertools.product(range(rounds), enumerate(actions)):
            for region, content in zip(regions, received, strict=True):
                region[:] = content
            started = time.thread_time_ns()
            action(arena, some)
            best[index] = min(best[index], time.thread_time_ns() - started)
        totals = [total + least for total, least in zip(totals, best, strict=True)]
    return totals


def measure(size: int, rounds: int) -> Iterator[dict[str, object]]:
    """One result for each way to profile segments of about ``size`` bytes."""
    arena, slots, name = fill_arena(size)
    length = int(arena.headers["length"][slots].sum())
    batch = max(64 * 1024 // size, 1) * 16
    if size < DEFAULT_SAMPLE_BYTES:
        settings = [("every byte, batches of 64", 0, 64), ("batches of 16", 0, 16), ("one by one", 0, 1)]
        batch = 64
    else:
        settings = [("default", DEFAULT_SAMPLE_BYTES, batch), ("every byte", 0, batch)]
    labels = [label for label, _, _ in settings] + ["nine patterns alone", "NumPy's entropy alone"]
    actions = [profiling(Profiler(sample_bytes=sample), count) for _, sample, count in settings]
    actions += [matching(ProfilerConfig(patterns=PATTERNS).build()), entropy_by_numpy]
    times = take_turns(arena, slots, batch, rounds, actions)
    for label, taken in zip(labels, times, strict=True):
        yield {
            "content": name,
            "size_bytes": round(length / len(slots)),
            "segments": len(slots),
            "setting": label,
            "microseconds": round(taken / len(slots) / 1e3, 2),
            "gigabytes_per_second": round(length / taken, 3),
            "ratio_to_numpy_entropy": round(times[-1] / taken, 2),
        }
    arena.close()


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for size in (1500, 16384, 65536):
        for result in measure(size, arguments.rounds):
            if arguments.json:
                print(json.dumps(result), flush=True)
            else:
                print(
                    f"{result['content']}, {result['size_bytes']:6,} B, {result['setting']:25}: "
                    f"{result['microseconds']:7.2f} us a segment, {result['gigabytes_per_second']:6.2f} GB/s, "
                    f"{result['ratio_to_numpy_entropy']:5.2f} times as fast as NumPy's entropy",
                    flush=True,
                )


if __name__ == "__main__":
    main()
