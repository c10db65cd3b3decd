"""One run: the real service on one trace under one setting. Prints one JSON object.

Run by :mod:`benchmarks.control.__main__` in a process of its own, with the pool in a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.control.traces import Pool, Trace, make_trace
from benchmarks.control.wrong_models import install
from streamspec.core.component import SourceConfigBase
from streamspec.core.interfaces import Intake, Rows, Source
from streamspec.core.outcome import SHED
from streamspec.core.segment import CONTENT_MESSAGES
from streamspec.telemetry.logging import configure_logging

WARM_UP_SECONDS = 1.0


class TraceConfig(SourceConfigBase):
    """Built by the benchmark only; not part of the configuration language."""

    def build(self, name: str) -> Source:
        """The source that :func:`run` has set."""
        return TraceSource.current


class TraceSource:
    """Commits segments when they are due; ``arrival_ns`` is the intended time. It cannot wait: what finds no
    room is shed by the service."""

    can_wait = False
    current: TraceSource

    def __init__(self, pool: Pool, trace: Trace) -> None:
        self._payloads = [np.frombuffer(payload, dtype=np.uint8) for payload in pool.payloads]
        self._keys = [name.encode() for name in pool.names]
        self._trace = trace
        self.start_ns = 0
        self.behind_ns = 0

    async def open(self, intake: Intake) -> None:
        self._intake = intake

    async def run(self) -> None:
        self.start_ns = time.monotonic_ns() + round(WARM_UP_SECONDS * 1e9)
        due = self._trace.due_ns + self.start_ns
        at = 0
        while at < len(due):
            now = time.monotonic_ns()
            end = int(np.searchsorted(due, now, side="right"))
            if end > at:
                self.behind_ns = max(self.behind_ns, now - int(due[at]))
                self._commit(at, end, due)
                at = end
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(min(max((int(due[at]) - now) / 1e9, 0), 0.005))

    def _commit(self, at: int, end: int, due: Any) -> None:
        slots = []
        intake = self._intake
        for position in range(at, end):
            slot = intake.acquire_by_shedding()
            if slot < 0:
                continue  # lost, which the report counts
            which = int(self._trace.segment[position])
            payload = self._payloads[which]
            intake.payload(slot)[: len(payload)] = payload
            intake.packets(slot)[0] = (0, 0, len(payload), len(payload), 0)
            row = intake.headers[slot]
            row["length"], row["packets"], row["content"] = len(payload), 1, CONTENT_MESSAGES
            row["arrival_ns"] = row["timestamp_ns"] = due[position]
            row["token"] = which
            intake.set_key(slot, self._keys[which] + b"/%d" % (position % 64))
            slots.append(slot)
        intake.commit(slots)

    async def stop(self) -> None:
        """It ends with its trace."""


class Meter:
    """Collects outcomes and what the lanes had, while the trace runs. Workers count from ``learning_seconds`` on."""

    def __init__(self, service: Any, learning_seconds: float) -> None:
        self._service = service
        self._learning_ns = round(learning_seconds * 1e9)
        self.latency_ns: list[Any] = []
        self.measured: list[Any] = []
        self.arrival_ns: list[Any] = []
        self.bytes_out = 0
        self.shed = 0
        self.worker_seconds = self.seconds = 0.0
        self.switches = 0
        self._shape: Any = None

    def take(self, rows: Rows) -> None:
        """A listener of the accounts."""
        gone = rows["ending"] == SHED
        self.shed += int(gone.sum())
        rows = rows[~gone]
        self.latency_ns.append(rows["latency_ns"].copy())
        self.measured.append(rows["useful_ns"].sum(axis=1))
        self.arrival_ns.append(rows["arrival_ns"].copy())
        self.bytes_out += int(rows["bytes_out"].sum())

    async def watch(self) -> None:
        """Integrate workers over time, and count changes of the setting."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.05)
            now = time.monotonic()
            lanes = self._service.dispatcher.lanes
            workers = sum(lane.allocation.workers for lane in lanes)
            started_ns = TraceSource.current.start_ns
            if started_ns and now * 1e9 > started_ns + self._learning_ns:
                self.worker_seconds += workers * (now - last)
                self.seconds += now - last
            last = now
            shape = tuple((lane.name, lane.allocation.workers, lane.allocation.nice) for lane in lanes)
            if self._shape is not None and shape != self._shape:
                self.switches += 1
            self._shape = shape


async def run(spec: dict[str, Any], pool: Pool) -> dict[str, Any]:
    """Measure one setting on one trace."""
    from streamspec.app import Service
    from streamspec.config import ServiceConfig

    if spec.get("wrong_model"):
        install(spec["wrong_model"])
    cores = len(os.sched_getaffinity(0))
    trace = make_trace(pool, spec["shape"], spec["seed"], spec["seconds"], cores, spec["load"])
    TraceSource.current = TraceSource(pool, trace)
    config = ServiceConfig.model_validate(
        {"sources": {"trace": {"type": "udp", "bind": "127.0.0.1:0"}}, **spec["config"]}, context={"base": Path()}
    )
    config = config.model_copy(update={"sources": {"trace": TraceConfig()}})
    service = Service(config)
    meter = Meter(service, spec.get("learning_seconds", 0.0))
    service.dispatcher.accounts.listeners.append(meter.take)
    configure_logging("warning", "text")
    watching = asyncio.ensure_future(meter.watch())
    cpu_before, started = os.times(), time.monotonic()
    await service.run()
    elapsed = time.monotonic() - started
    cpu = os.times()
    watching.cancel()
    summary = service.summary()
    report = _report(spec, config.objective.latency, meter, trace, elapsed, cpu_before, cpu)
    return report | {"control": summary.get("control"), "learning": summary.get("learning")}


def _report(
    spec: dict[str, Any], objective: float, meter: Meter, trace: Trace, elapsed: float, before: Any, after: Any
) -> dict[str, Any]:
    latency = np.concatenate(meter.latency_ns) / 1e9
    measured = np.concatenate(meter.measured)
    learning_ns = spec.get("learning_seconds", 0) * 1e9
    settled = np.concatenate(meter.arrival_ns) - TraceSource.current.start_ns > learning_ns
    counted = settled if settled.any() else ~settled  # of a trace that ends before, all
    segments, due = len(trace.due_ns), int((trace.due_ns > learning_ns).sum())
    lost = segments - len(latency)
    light = measured <= np.median(measured)
    return {
        "setting": spec["name"],
        "shape": spec["shape"],
        "seed": spec["seed"],
        "segments": segments,
        "miss_ratio": (int((latency > objective).sum()) + lost) / segments,
        "settled_miss_ratio": 1.0 - int((latency[settled] <= objective).sum()) / due if due else None,
        "learning_miss_ratio": float((latency[~settled] > objective).mean()) if (~settled).any() else None,
        "p50_ms": float(np.percentile(latency[counted], 50) * 1e3),
        "p99_ms": float(np.percentile(latency[counted], 99) * 1e3),
        "light_p99_ms": float(np.percentile(latency[counted & light], 99) * 1e3),
        "worker_seconds_per_second": meter.worker_seconds / max(meter.seconds, 1e-9),
        "cpu_seconds_per_second": (
            after.user - before.user + after.system - before.system + after.children_user + after.children_system
        )
        / elapsed,
        "bytes_out": meter.bytes_out,
        "lost": lost,
        "shed": meter.shed,
        "switches": meter.switches,
        "generator_behind_ms": TraceSource.current.behind_ns / 1e6,
        "useful_seconds": float(measured.sum() / 1e9),
    }


def main() -> None:
    """Read a specification and the pool's file from the command line."""
    spec = json.loads(sys.argv[1])
    with open(sys.argv[2], "rb") as file:
        pool = pickle.load(file)  # written by the parent process a moment ago
    print(json.dumps(uvloop.run(run(spec, pool))))


if __name__ == "__main__":
    main()
