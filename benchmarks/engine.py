"""What the engine itself costs: an identity stage, two workers, segments made in place.

``python -m benchmarks.engine [--json] [--seconds S]``. The bare loop measured in the same run is the
same source filling the same slots without dispatcher and workers, so the ratio says what the data path
leaves of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time

import numpy as np
import psutil
import uvloop

from streamspec.core.resources import Allocation
from streamspec.core.segment import SlotLayout
from streamspec.engine.arena import Arena
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.fleet import ChainSpec
from streamspec.engine.intake import EngineIntake

FILL_BATCH = 64


class _Source:
    can_wait = True


def _fill(intake: EngineIntake, slots: np.ndarray, content: np.ndarray) -> None:
    headers = intake.headers
    headers["length"][slots] = len(content)
    headers["arrival_ns"][slots] = time.monotonic_ns()
    headers["key_hash"][slots] = np.arange(len(slots))
    for slot in slots.tolist():
        start = intake.offset(slot)
        intake.memory[start : start + len(content)] = content


async def measure(size_bytes: int, batch: int, seconds: float, workers: int = 2) -> dict[str, float]:
    """Segments per second through the engine, and through the bare loop."""
    layout = SlotLayout(max(size_bytes, 1024), 16, 256, 4096)
    dispatcher = Dispatcher(
        Arena(layout, 1024),
        [LaneSpec("default", Allocation(workers=workers, batch=batch))],
        ChainSpec("streamspec.testing.chains:identity", []),
        failed=print,
    )
    await dispatcher.start(workers)
    intake = dispatcher.add_source("made", _Source())  # type: ignore[arg-type]
    content = (np.arange(size_bytes) % 251).astype(np.uint8)
    bare = _bare(intake, content, seconds / 4)
    cpu_before = _cpu_seconds(dispatcher)
    started = time.monotonic()
    segments = 0
    while time.monotonic() - started < seconds:
        slots = intake.acquire_many(FILL_BATCH)
        if not len(slots):
            await intake.wait_for_room()
            continue
        _fill(intake, slots, content)
        intake.commit(slots)
        segments += len(slots)
        await asyncio.sleep(0)
    await dispatcher.drain()
    elapsed = time.monotonic() - started
    cpu = [after - before for after, before in zip(_cpu_seconds(dispatcher), cpu_before, strict=True)]
    accounts = dispatcher.accounts
    result = {
        "size_bytes": size_bytes,
        "batch": batch,
        "segments_per_second": segments / elapsed,
        "gigabytes_per_second": segments * size_bytes / elapsed / 1e9,
        "bare_segments_per_second": bare,
        "ratio_to_bare": segments / elapsed / bare,
        "dispatcher_microseconds": cpu[0] / segments * 1e6,
        "workers_microseconds": cpu[1] / segments * 1e6,
        "latency_p50_seconds": accounts.latency_seconds(50),
        "latency_p99_seconds": accounts.latency_seconds(99),
        "lost": accounts.received_segments - accounts.delivered_segments,
    }
    await dispatcher.close()
    return result


def _bare(intake: EngineIntake, content: np.ndarray, seconds: float) -> float:
    started = time.monotonic()
    segments = 0
    while time.monotonic() - started < seconds:
        slots = intake.acquire_many(FILL_BATCH)
        _fill(intake, slots, content)
        intake._arena.release_many(slots)
        segments += len(slots)
    return segments / (time.monotonic() - started)


def _cpu_seconds(dispatcher: Dispatcher) -> tuple[float, float]:
    mine = resource.getrusage(resource.RUSAGE_SELF)
    workers = (psutil.Process(worker.pid).cpu_times() for worker in dispatcher.fleet.present())
    return mine.ru_utime + mine.ru_stime, sum(times.user + times.system for times in workers)


def main() -> None:
    """Print one line per setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    for size_bytes, batch in ((1024, 16), (1024, 64), (16384, 16), (65536, 16)):
        result = uvloop.run(measure(size_bytes, batch, arguments.seconds))
        if arguments.json:
            print(json.dumps(result), flush=True)
        else:
            print(
                f"{size_bytes:6d} B, batch {batch:3d}: {result['segments_per_second']:9,.0f} segments/s, "
                f"{result['gigabytes_per_second']:5.2f} GB/s, {result['ratio_to_bare']:.2f} of the bare fill; "
                f"CPU per segment: dispatcher {result['dispatcher_microseconds']:.1f} us, "
                f"workers {result['workers_microseconds']:.1f} us; "
                f"p99 {result['latency_p99_seconds'] * 1e3:.1f} ms; lost {result['lost']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
