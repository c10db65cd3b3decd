"""Light segments beside heavy ones: two static lanes against one shared queue.

``python -m benchmarks.lanes [--json] [--seconds S] [--pairs N] [--load L]``. 98 % of the segments take
0.2 ms of CPU and 2 % take 10 ms, in an open loop of Poisson arrivals; latency counts from the intended
arrival. The shared queue gets the better of two batch sizes. Both settings see the same arrivals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time

import numpy as np
import uvloop

from streamspec.core.interfaces import Rows
from streamspec.core.resources import Allocation
from streamspec.core.segment import SlotLayout
from streamspec.engine.arena import Arena
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.fleet import ChainSpec
from streamspec.engine.router import LaneRule

LIGHT_MICROSECONDS, HEAVY_MICROSECONDS, HEAVY_SHARE = 200, 10_000, 0.02
LIGHT_BYTES, HEAVY_BYTES = 64, 1024

SHARED = {f"shared queue, batch {batch}": [LaneSpec("all", Allocation(workers=2, batch=batch))] for batch in (1, 16)}
LANES = {
    "two lanes": [
        LaneSpec("light", Allocation(workers=2, batch=16), rule=LaneRule(lane=0, max_bytes=LIGHT_BYTES)),
        LaneSpec("heavy", Allocation(workers=2, nice=19, batch=1), urgency=1, rule=LaneRule(lane=1)),
    ]
}


class _Source:
    can_wait = True


def _arrivals(seed: int, per_second: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    count = int(per_second * seconds)
    times = np.cumsum(rng.exponential(1 / per_second, count))
    return (times * 1e9).astype(np.int64), rng.random(count) < HEAVY_SHARE


async def measure(lanes: list[LaneSpec], seed: int, per_second: float, seconds: float) -> dict[str, float]:
    """Latency percentiles of light and heavy segments, in milliseconds."""
    workers = sum(lane.allocation.workers for lane in lanes)
    dispatcher = Dispatcher(
        Arena(SlotLayout(1024, 1, 64, 1024), 30_000),
        lanes,
        ChainSpec("streamspec.testing.chains:spinning", []),
        ordered=False,
        failed=print,
    )
    await dispatcher.start(workers)
    latencies: dict[bool, list[np.ndarray]] = {False: [], True: []}

    def note(rows: Rows) -> None:
        heavy = rows["length"] > LIGHT_BYTES
        for kind in (False, True):
            latencies[kind].append(rows["latency_ns"][heavy == kind].copy())

    dispatcher.accounts.listeners.append(note)
    intake = dispatcher.add_source("made", _Source())  # type: ignore[arg-type]
    offsets, heavy = _arrivals(seed, per_second, seconds)
    start_ns = time.monotonic_ns() + 10_000_000
    position = 0
    while position < len(offsets):
        due = int(np.searchsorted(offsets, time.monotonic_ns() - start_ns, side="right"))
        if due > position:
            slots = intake.acquire_many(due - position)
            chosen = slice(position, position + len(slots))
            intake.headers["arrival_ns"][slots] = offsets[chosen] + start_ns
            intake.headers["length"][slots] = np.where(heavy[chosen], HEAVY_BYTES, LIGHT_BYTES)
            for slot, is_heavy in zip(slots.tolist(), heavy[chosen].tolist(), strict=True):
                cost = HEAVY_MICROSECONDS if is_heavy else LIGHT_MICROSECONDS
                intake.memory[intake.offset(slot) :][:4].view(np.uint32)[0] = cost
            intake.commit(slots)
            position += len(slots)
        await asyncio.sleep(0.001)  # the least that uvloop can wait; less is a busy loop
    await dispatcher.drain()
    await dispatcher.close()
    result = {}
    for name, kind in (("light", False), ("heavy", True)):
        values = np.concatenate(latencies[kind]) / 1e6
        result[f"{name}_p50_ms"], result[f"{name}_p99_ms"] = np.percentile(values, (50, 99)).tolist()
    return result


def main() -> None:
    """Print each pair and the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--load", type=float, default=0.9, help="share of what two bare cores could do")
    arguments = parser.parse_args()
    mean_seconds = ((1 - HEAVY_SHARE) * LIGHT_MICROSECONDS + HEAVY_SHARE * HEAVY_MICROSECONDS) / 1e6
    per_second = arguments.load * 2 / mean_seconds
    ratios: dict[str, list[float]] = {"light": [], "heavy": []}
    for seed in range(arguments.pairs):
        results = {
            name: uvloop.run(measure(lanes, seed, per_second, arguments.seconds))
            for name, lanes in {**SHARED, **LANES}.items()
        }
        shared = min((results[name] for name in SHARED), key=lambda r: r["light_p99_ms"])
        lanes = results["two lanes"]
        for kind in ratios:
            ratios[kind].append(shared[f"{kind}_p99_ms"] / lanes[f"{kind}_p99_ms"])
        for name, result in results.items():
            shown = {key: round(value, 2) for key, value in result.items()}
            print(json.dumps({"seed": seed, "setting": name, **shown}), flush=True)
    summary = {
        "load": arguments.load,
        "segments_per_second": round(per_second),
        "light_p99_times_lower": round(statistics.median(ratios["light"]), 1),
        "heavy_p99_times_higher": round(1 / statistics.median(ratios["heavy"]), 2),
    }
    print(json.dumps(summary) if arguments.json else f"median of {arguments.pairs} pairs: {summary}")


if __name__ == "__main__":
    main()
