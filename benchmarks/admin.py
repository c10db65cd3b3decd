"""What watching costs: the time of ``/metrics`` at eight lanes, and what HTTP under load adds to segments.

``python -m benchmarks.admin [--json] [--seconds S] [--pairs N] [--per-second R]``. One dispatcher with eight lanes and
two workers gets segments of 0.2 ms of CPU in an open loop of Poisson arrivals, timed from the intended arrival.
Windows with and without HTTP load alternate; each pair gives the ratio of its 99th percentiles. The load comes from
a process of its own at the last nice level: scrapes of ``/metrics``, the state, and two readers of the events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence

import aiohttp
import numpy as np
import uvloop

from streamspec.admin.config import AdminConfig
from streamspec.admin.server import AdminServer
from streamspec.core.interfaces import Rows
from streamspec.core.resources import Allocation
from streamspec.core.segment import SlotLayout
from streamspec.engine.arena import Arena
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.fleet import ChainSpec
from streamspec.engine.intake import EngineIntake
from streamspec.engine.router import LaneRule
from streamspec.engine.status import ServiceFacts, StatusReader
from streamspec.telemetry.decisions import DecisionLog
from streamspec.telemetry.exposition import Exposition
from streamspec.testing.status import ManualReader

LANES, SEGMENT_MICROSECONDS = 8, 200
LOAD = {"metrics": 2.0, "api/v1/state": 10.0, "readyz": 5.0}
"""Requests per second: many times what one Prometheus and one dashboard ask."""


class _Source:
    can_wait = True


def lanes() -> list[LaneSpec]:
    """Eight lanes by size; the workers stand in the first two."""
    workers = [1, 1, *[0] * (LANES - 2)]
    return [
        LaneSpec(f"lane{i}", Allocation(workers=workers[i]), rule=LaneRule(i, max_bytes=64 + i % 2))
        for i in range(LANES)
    ]


async def feed(
    dispatcher: Dispatcher, intake: EngineIntake, rng: np.random.Generator, rate: float, seconds: float
) -> None:
    """Poisson arrivals, alternately to the first two lanes; returns when they are delivered."""
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    offsets = (times * 1e9).astype(np.int64)
    start_ns = time.monotonic_ns() + 5_000_000
    position = 0
    while position < len(offsets):
        due = int(np.searchsorted(offsets, time.monotonic_ns() - start_ns, side="right"))
        if due > position:
            slots = intake.acquire_many(due - position)
            chosen = slice(position, position + len(slots))
            intake.headers["arrival_ns"][slots] = offsets[chosen] + start_ns
            intake.headers["length"][slots] = 64 + np.arange(chosen.start, chosen.stop) % 2
            for slot in slots.tolist():
                intake.payload(slot)[:4] = np.frombuffer(SEGMENT_MICROSECONDS.to_bytes(4, "little"), dtype=np.uint8)
            intake.commit(slots)
            position += len(slots)
        await asyncio.sleep(0.0005)
    await dispatcher.drain()


async def ask(url: str) -> None:
    """The load, until the process is ended."""
    async with aiohttp.ClientSession(url) as client:

        async def often(path: str, per_second: float) -> None:
            while True:
                async with client.get(path) as response:
                    await response.read()
                await asyncio.sleep(1 / per_second)

        async def follow() -> None:
            async with client.get("api/v1/events", timeout=aiohttp.ClientTimeout(total=None)) as response:
                async for _ in response.content.iter_any():
                    pass

        await asyncio.gather(*(often(path, rate) for path, rate in LOAD.items()), follow(), follow())


async def pairs(seconds: float, count: int, rate: float) -> dict[str, object]:
    """Percentiles of segments with and without HTTP load, in milliseconds, and their ratios."""
    dispatcher = Dispatcher(
        Arena(SlotLayout(1024, 1, 64, 1024), 20_000),
        lanes(),
        ChainSpec("streamspec.testing.chains:spinning", []),
        ordered=False,
        failed=print,
    )
    await dispatcher.start(2)
    facts = ServiceFacts("running", 0.05, 99.0, ["spin"], [], {})
    reader = StatusReader(dispatcher, lambda: facts, DecisionLog())
    server = AdminServer(AdminConfig(bind="127.0.0.1:0"), reader, _Fixed())
    await server.open()
    latencies: list[np.ndarray] = []

    def note(rows: Rows) -> None:
        latencies.append(rows["latency_ns"].copy())

    dispatcher.accounts.listeners.append(note)
    intake = dispatcher.add_source("made", _Source())  # type: ignore[arg-type]
    found: dict[str, list[float]] = {"without": [], "with": []}
    cpu: dict[str, list[float]] = {"without": [], "with": []}
    for index in range(-1, count):
        for kind in ("without", "with") if index % 2 else ("with", "without"):
            asking = await _start_asking(server.url) if kind == "with" else None
            latencies.clear()
            before = time.thread_time()
            await feed(dispatcher, intake, np.random.default_rng(index + 1), rate, seconds)
            spent = time.thread_time() - before
            if asking is not None:
                asking.kill()
                await asking.wait()
            if index >= 0:  # the first pair warms up
                found[kind].append(float(np.percentile(np.concatenate(latencies), 99)) / 1e6)
                cpu[kind].append(1e3 * spent / seconds)
    await server.close()
    reader.close()
    await dispatcher.close()
    ratios = [a / b for a, b in zip(found["with"], found["without"], strict=True)]
    return {
        "p99_ms_without": statistics.median(found["without"]),
        "p99_ms_with": statistics.median(found["with"]),
        "ratio_of_p99": statistics.median(ratios),
        "loop_cpu_ms_per_second_without": statistics.median(cpu["without"]),
        "loop_cpu_ms_per_second_with": statistics.median(cpu["with"]),
        "ratios": sorted(round(ratio, 4) for ratio in ratios),
    }


class _Fixed:
    def set_mode(self, mode: str) -> None:
        raise NotImplementedError

    def pause_learning(self, paused: bool) -> None:
        raise NotImplementedError


async def _start_asking(url: str) -> asyncio.subprocess.Process:
    command = ["nice", "-n", "19", sys.executable, "-m", "benchmarks.admin", "--ask", url]
    process = await asyncio.create_subprocess_exec(*command)
    await asyncio.sleep(1.0)  # it imports
    return process


async def scrapes(count: int = 200) -> dict[str, float]:
    """Milliseconds of one rendering of ``/metrics``, and of one scrape over HTTP; the longest piece without a pause."""
    reader = ManualReader(LANES)
    exposition = Exposition(reader)
    rendered, pieces, cpu = [], [], []
    for _ in range(count):
        start, before = time.perf_counter(), time.thread_time()
        task = asyncio.ensure_future(exposition.render())
        while not task.done():
            piece = time.perf_counter()
            await asyncio.sleep(0)
            pieces.append(time.perf_counter() - piece)
        rendered.append(time.perf_counter() - start)
        cpu.append(time.thread_time() - before)
    server = AdminServer(AdminConfig(bind="127.0.0.1:0"), reader, reader)
    await server.open()
    asked, size = [], 0
    async with aiohttp.ClientSession(server.url) as client:
        for _ in range(30):
            await asyncio.sleep(0.11)  # past what is given twice
            start = time.perf_counter()
            async with client.get("metrics") as response:
                size = len(await response.read())
            asked.append(time.perf_counter() - start)
    await server.close()
    return {
        "render_cpu_ms": 1e3 * statistics.median(cpu),
        "render_ms": 1e3 * statistics.median(rendered),
        "render_p99_ms": 1e3 * float(np.percentile(rendered, 99)),
        "longest_piece_p99_ms": 1e3 * float(np.percentile(pieces, 99)),
        "scrape_ms": 1e3 * statistics.median(asked),
        "size_bytes": size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each window")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--per-second", type=float, default=2000.0, help="segments")
    parser.add_argument("--ask", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.ask:
        uvloop.run(ask(options.ask))
        return
    result: dict[str, object] = {"metrics": uvloop.run(scrapes())}
    result["segments"] = uvloop.run(pairs(options.seconds, options.pairs, options.per_second))
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for part, numbers in result.items():
        print(part)
        for name, value in numbers.items():  # type: ignore[attr-defined]
            print(f"  {name:32} {value if isinstance(value, list) else f'{value:.4g}'}")


if __name__ == "__main__":
    main()
