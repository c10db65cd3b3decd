"""What a GPU does for features and for ``inspect``, beside one core of the CPU on the same segments.

``python -m benchmarks.gpu [--json] [--small]``. Segments lie in an arena that is registered with the driver, so
transfers are counted. Four measurements: features of segments of 64 KiB; ``inspect`` with 1,000 rules on packets of
1,500 bytes, alerts included, beside Hyperscan on one core with the same rules; the automatic choice at batches of 1 to
4,096 segments, beside the better of both; how long it takes until NVML shows the memory of a grant that was taken
back. Without a GPU the CPU is measured, and the rest says ``not exercised``. ``--small``: sizes that the simulator of
numba can do (``NUMBA_ENABLE_CUDASIM=1``); its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.interfaces import SegmentBatch
from streamspec.core.resources import Grant, ResourceRequest
from streamspec.core.segment import CONTENT_MESSAGES, SlotLayout
from streamspec.engine.arena import Arena
from streamspec.engine.worker import ArenaSegment
from streamspec.links import cuda
from streamspec.profiler.profiler import Profiler
from streamspec.stages.inspect import Inspect, InspectConfig
from streamspec.telemetry.nvml import Nvml, NvmlMissing
from streamspec.testing.stages import RecordingContext

PACKET_BYTES = 1500
MISSING = "not exercised: no NVIDIA GPU"
Row = dict[str, Any]


class Sizes:
    """How much is done: a real device's, or the simulator's."""

    def __init__(self, small: bool) -> None:
        self.segment_bytes = 2048 if small else 65_536
        self.segments = 4 if small else 4096
        self.rules = 20 if small else 1000
        self.inspected = 2 if small else 256
        self.rounds = 1 if small else 5
        self.batches = [2**power for power in range(0, self.segments.bit_length(), 2)]


# -- segments and rules -----------------------------------------------------------------------
def words(noise: random.Random, count: int) -> list[str]:
    """Text to look for, none of which the traffic holds by itself."""
    return ["".join(noise.choices("bcdfghjklmnpqrstvwxz", k=noise.randrange(8, 17))) for _ in range(count)]


def write_rules(folder: Path, count: int, noise: random.Random) -> tuple[Path, list[str]]:
    """Rules of some kinds: words, words in any case, words with digits or text behind them."""
    found = words(noise, count)
    tails = ("", r"[0-9]{2,6}", r"\s*=\s*\w+", r"[^\r\n]{0,40}end")
    rules = [
        {"id": i, "name": f"rule {i}", "pattern": word + tails[i % 4], "flags": ["caseless"] if i % 2 else []}
        for i, word in enumerate(found)
    ]
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(rules))
    return path, found


def fill(sizes: Sizes, noise: random.Random, found: list[str]) -> tuple[Arena, list[ArenaSegment]]:
    """An arena full of segments: text, numbers and noise, one packet in a thousand with a word of the rules."""
    packets = sizes.segment_bytes // PACKET_BYTES
    layout = SlotLayout(sizes.segment_bytes, packets, 64, 4096)
    arena = Arena(layout, max(sizes.segments, 2))
    text = " ".join(noise.choices(["GET", "index.html", "value", "1234", "user-agent:", "error"], k=9000)).encode()
    segments = []
    for _ in range(sizes.segments):
        slot = arena.acquire()
        content = bytearray(text[noise.randrange(64) :][: sizes.segment_bytes])
        content[sizes.segment_bytes // 2 :] = noise.randbytes(sizes.segment_bytes - sizes.segment_bytes // 2)
        if noise.random() < packets / 1000:
            word = noise.choice(found).encode()
            content[100 : 100 + len(word)] = word
        arena.payload(slot)[:] = np.frombuffer(content, dtype=np.uint8)
        table = arena.packets(slot)[:packets]
        table["offset"], table["captured_bytes"] = np.arange(packets) * PACKET_BYTES, PACKET_BYTES
        row = arena.headers[slot : slot + 1]
        row["length"], row["packets"], row["content"] = sizes.segment_bytes, packets, CONTENT_MESSAGES
        segment = ArenaSegment(arena)
        start = arena.offset(slot)
        payload = arena.memory.data[start : start + sizes.segment_bytes]
        segment.load(slot, (slot + 1, 0, sizes.segment_bytes, packets, 0, 0, CONTENT_MESSAGES, 0, 0, 0), payload)
        segments.append(segment)
    return arena, segments


def best_seconds(rounds: int, work: Callable[[], object]) -> float:
    """The least of some rounds."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


# -- features ---------------------------------------------------------------------------------
def features(sizes: Sizes, arena: Arena, device: bool) -> Iterator[Row]:
    """GB/s of every byte read, by one core and by a device."""
    slots = np.arange(sizes.segments, dtype=np.int32)
    out = np.zeros((sizes.segments, FEATURE_COUNT), dtype=np.float32)
    profiler = Profiler(sample_bytes=0)
    size = sizes.segments * sizes.segment_bytes
    cpu = best_seconds(sizes.rounds, lambda: profiler.profile(arena, arena.headers, slots, out))
    row: Row = {"what": "features", "cpu_gigabytes_per_second": round(size / cpu / 1e9, 3)}
    if device:
        profiler = Profiler(sample_bytes=0, device="gpu")
        profiler.use_gpu(cuda.open_device("0", 0), arena, lambda: None)
        gpu = best_seconds(sizes.rounds, lambda: profiler.profile(arena, arena.headers, slots, out))
        assert profiler.gpu is not None
        profiler.gpu.close()
        row |= {"gpu_gigabytes_per_second": round(size / gpu / 1e9, 3), "times_one_core": round(cpu / gpu, 2)}
    else:
        row["gpu"] = MISSING
    yield row


def choice(sizes: Sizes, arena: Arena, device: bool) -> Iterator[Row]:
    """Seconds of the automatic choice beside those of the better device, by segments in a batch."""
    if not device:
        yield {"what": "automatic choice", "gpu": MISSING}
        return
    profilers: dict[Any, Profiler] = {wish: Profiler(sample_bytes=0, device=wish) for wish in ("cpu", "gpu", "auto")}
    for wish in ("gpu", "auto"):
        profilers[wish].use_gpu(cuda.open_device("0", 0), arena, lambda: None)
    out = np.zeros((sizes.segments, FEATURE_COUNT), dtype=np.float32)
    for batch in sizes.batches:
        slots = np.arange(batch, dtype=np.int32)
        seconds = {}
        for wish, profiler in profilers.items():
            turns = max(sizes.segments * sizes.rounds // batch, 12) if sizes.rounds > 1 else 7

            def work(profiler: Profiler = profiler, turns: int = turns, slots: Any = slots, size: int = batch) -> None:
                for _ in range(turns):
                    profiler.profile(arena, arena.headers, slots, out[:size])

            work()  # learns
            seconds[wish] = best_seconds(sizes.rounds, work) / turns
        better = min(seconds["cpu"], seconds["gpu"])
        times = {f"{wish}_microseconds": round(taken * 1e6, 1) for wish, taken in seconds.items()}
        yield {"what": "automatic choice", "segments": batch, **times, "ratio": round(seconds["auto"] / better, 3)}
    for wish in ("gpu", "auto"):
        found = profilers[wish].gpu
        assert found is not None
        found.close()


# -- inspect ----------------------------------------------------------------------------------
def build(rules: Path, wish: str, arena: Arena) -> tuple[Inspect, list[Grant]]:
    """The stage as a worker opens it, and its grant."""
    config = InspectConfig.model_validate({"type": "inspect", "rules": [str(rules)], "device": wish, "cache_bytes": 0})
    stage, grants = config.build(), []

    def ask(request: ResourceRequest, on_change: Callable[[Grant], None]) -> Grant:
        grants.append(Grant(1, request, "0", on_change))
        return grants[-1]

    stage.open()
    if stage.batched:
        stage.attach(arena, ask)
    return stage, grants


def inspected(stage: Inspect, arena: Arena, segments: list[ArenaSegment]) -> RecordingContext:
    """One batch through the stage."""
    context = RecordingContext()
    if stage.batched:
        starts = np.array([arena.offset(segment.slot) for segment in segments], dtype=np.int64)
        lengths = np.array([segment.length for segment in segments], dtype=np.int64)
        rows = np.array([segment.packet_count for segment in segments], dtype=np.int64)
        names = np.array([segment.segment_id for segment in segments], dtype=np.uint64)
        places = np.stack([starts, lengths, starts + arena.layout.packets_offset, rows])
        stage.begin(SegmentBatch(names, places, np.full(len(segments), -1, dtype=np.int16)))
    for segment in segments:
        stage.process(segment, context)  # type: ignore[arg-type]  # as in a worker
    return context


def inspect(sizes: Sizes, arena: Arena, segments: list[ArenaSegment], rules: Path, device: bool) -> Iterator[Row]:
    """GB/s with many rules, by Hyperscan on one core and by a device; then a grant that is taken back."""
    some = segments[: sizes.inspected]
    size = len(some) * sizes.segment_bytes // PACKET_BYTES * PACKET_BYTES
    stage, _ = build(rules, "cpu", arena)
    expected = inspected(stage, arena, some)
    cpu = best_seconds(sizes.rounds, lambda: inspected(stage, arena, some))
    row: Row = {"what": "inspect", "rules": sizes.rules, "alerts": len(expected.records)}
    row["hyperscan_gigabytes_per_second"] = round(size / cpu / 1e9, 3)
    if not device:
        yield {**row, "gpu": MISSING}
        yield {"what": "grant taken back", "gpu": MISSING}
        return
    stage, grants = build(rules, "gpu", arena)
    found = inspected(stage, arena, some)
    assert found.records == expected.records
    assert found.tally.counts["on_gpu"] == len(some)
    gpu = best_seconds(sizes.rounds, lambda: inspected(stage, arena, some))
    row |= {"gpu_gigabytes_per_second": round(size / gpu / 1e9, 3), "times_hyperscan": round(cpu / gpu, 2)}
    yield row
    yield taken_back(stage, grants[0], arena, some)


def taken_back(stage: Inspect, grant: Grant, arena: Arena, some: list[ArenaSegment]) -> Row:
    """Seconds until NVML shows less, with segments that go on by the CPU."""
    try:
        nvml = Nvml()
    except NvmlMissing as error:
        return {"what": "grant taken back", "gpu": f"not exercised: {error}"}
    before = _own_bytes(nvml)
    begun = time.perf_counter()
    grant.amounts = ResourceRequest()
    assert grant.on_change is not None
    grant.on_change(grant)
    while _own_bytes(nvml) >= before and time.perf_counter() - begun < 5:
        time.sleep(0.001)
    seconds, freed = time.perf_counter() - begun, before - _own_bytes(nvml)
    after = inspected(stage, arena, some)
    nvml.close()
    by_cpu = after.tally.counts.get("gpu_granted_too_little", 0)
    return {"what": "grant taken back", "seconds": round(seconds, 4), "freed_bytes": freed, "segments_by_cpu": by_cpu}


def _own_bytes(nvml: Nvml) -> int:
    memory = nvml.memory(nvml.places[0])
    used = None if memory is None else memory.by_pid.get(os.getpid())
    return (0 if memory is None else memory.used_bytes) if used is None else used


def measure(small: bool) -> Iterator[Row]:
    """All results, one after the other."""
    from streamspec.links.cuda_kernels import cuda as target

    sizes, noise, device = Sizes(small), random.Random(8), bool(target.is_available())
    with tempfile.TemporaryDirectory() as folder:
        rules, found = write_rules(Path(folder), sizes.rules, noise)
        arena, segments = fill(sizes, noise, found)
        yield from features(sizes, arena, device)
        yield from inspect(sizes, arena, segments, rules, device)
        yield from choice(sizes, arena, device)


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    for row in measure(arguments.small):
        text = json.dumps(row) if arguments.json else ", ".join(f"{name} {value}" for name, value in row.items())
        print(text, flush=True)


if __name__ == "__main__":
    main()
