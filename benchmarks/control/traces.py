"""Open-loop traces of real segments: what arrives when, in four shapes.

Segments are cut from the folder of real captures (generated ones where there is none) and carry their payload as one
message; a trace says at which nanosecond which segment is due. Loads are shares of what the machine can do: the
useful time of the chain, measured once in a bare loop, over the usable cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[3] / "shared" / "pcaps"))
SHAPES = ("steady", "diurnal", "bursts", "content shift")
SEGMENT_BYTES = 64 * 1024
LARGEST_POOL = 1200


@dataclass(frozen=True)
class Pool:
    """Segments to draw from.

    Attributes:
        payloads: by segment.
        names: file of each, the stream key.
        cost_seconds: useful time of the whole chain in its default variants.
    """

    payloads: list[bytes]
    names: list[str]
    cost_seconds: npt.NDArray[np.float64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Bytes by segment."""
        return np.array([len(payload) for payload in self.payloads])


def load_pool(stages: list[dict[str, Any]], seed: int = 1) -> Pool:
    """Cut, choose and measure; the smallest of three runs counts."""
    payloads, names = [], []
    found = list(_segments())
    rng = np.random.default_rng(seed)
    for index in sorted(rng.permutation(len(found))[:LARGEST_POOL].tolist()):
        name, payload = found[index]
        names.append(name)
        payloads.append(payload)
    return Pool(payloads, names, _costs(stages, payloads))


def _segments() -> Iterator[tuple[str, bytes]]:
    from streamspec.profiler.report import cut_file

    sizes = (SEGMENT_BYTES, 16 * 1024)
    files = sorted(p for p in CAPTURES.rglob("*") if p.is_file() and ".pcap" in p.name and "malformed" not in p.parts)
    for index, path in enumerate(files):
        taken = 0
        for name, content in cut_file(path, sizes[index % len(sizes)]):
            if len(content.payload) >= 2048:
                yield name, bytes(content.payload)
                taken += 1
            if taken == 60:  # no file dominates
                break


def _costs(stages: list[dict[str, Any]], payloads: list[bytes]) -> npt.NDArray[np.float64]:
    chain = build_chain_function(stages)
    best = np.full(len(payloads), np.inf)
    for _ in range(3):
        for index, payload in enumerate(payloads):
            started = time.thread_time_ns()
            chain(payload)
            best[index] = min(best[index], (time.thread_time_ns() - started) / 1e9)
    return best


def build_chain_function(stages: list[dict[str, Any]]) -> Any:
    """The stage chain as a function of a payload, without the service around it."""
    from streamspec.core.interfaces import OpenableStage
    from streamspec.stages.chain import build_chain

    chain = [stage for _, stage in build_chain(stages)]
    for stage in chain:
        if isinstance(stage, OpenableStage):
            stage.open()

    class Context:
        variant = -1

        def emit(self, record_type: str, line: bytes) -> None: ...
        def delta(self, content: bytes) -> None: ...
        def count(self, reason: str, count: int = 1) -> None: ...

    from streamspec.core.segment import CONTENT_MESSAGES, PACKET

    class Message:
        segment_id, timestamp_ns, content, link_type, key = 1, 0, CONTENT_MESSAGES, 0, b"k"

        def __init__(self, payload: bytes) -> None:
            self.payload = memoryview(payload)
            self.original = np.frombuffer(payload, dtype=np.uint8)
            self.packets = np.array([(0, 0, len(payload), len(payload), 0)], dtype=PACKET)
            self.notes: dict[str, Any] = {}

    context = Context()

    def run(payload: bytes) -> memoryview:
        message = Message(payload)
        for stage in chain:
            stage.process(message, context)  # type: ignore[arg-type]
        return message.payload

    return run


@dataclass(frozen=True)
class Trace:
    """``due_ns`` ascending from 0, and which segment of the pool is due."""

    due_ns: npt.NDArray[np.int64]
    segment: npt.NDArray[np.int64]


def make_trace(pool: Pool, shape: str, seed: int, seconds: float, cores: int, load: float = 0.6) -> Trace:
    """One trace. ``load`` is the mean share of the cores' time that the steady shape asks for."""
    rng = np.random.default_rng([seed, SHAPES.index(shape)])
    step = 0.05
    starts = np.arange(0, seconds, step)
    weights = _weights(pool, shape, starts / seconds)
    due, segments = [], []
    for start, level, weight in zip(starts, _levels(shape, starts, load), weights, strict=True):
        mean_cost = float((weight * pool.cost_seconds).sum())
        if shape == "content shift":  # the byte rate is constant, whatever it costs
            mean_bytes = float((weight * pool.lengths).sum())
            rate = level * cores * _bytes_per_work_second(pool) / mean_bytes
        else:
            rate = level * cores / mean_cost
        count = rng.poisson(rate * step)
        due.append(np.sort(start + rng.random(count) * step))
        segments.append(rng.choice(len(pool.payloads), count, p=weight))
    return Trace((np.concatenate(due) * 1e9).astype(np.int64), np.concatenate(segments))


def _levels(shape: str, starts: npt.NDArray[np.float64], load: float) -> npt.NDArray[np.float64]:
    if shape == "diurnal":
        return load * (1 + 0.55 * np.sin(2 * np.pi * starts / (starts[-1] / 2)))
    if shape == "bursts":
        return np.where(starts % 5 < 1, 1.25, 0.3)
    return np.full(len(starts), load)


def _weights(pool: Pool, shape: str, progress: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    even = np.full(len(pool.payloads), 1 / len(pool.payloads))
    if shape != "content shift":
        return [even] * len(progress)
    cheap = _mix(pool, dear=False)
    dear = _mix(pool, dear=True)
    return [dear if 1 / 3 <= at < 2 / 3 else cheap for at in progress]


def _mix(pool: Pool, *, dear: bool) -> npt.NDArray[np.float64]:
    """Segments of the cheaper or dearer half by cost per byte, the others seldom."""
    per_byte = pool.cost_seconds / pool.lengths
    inside = per_byte > np.median(per_byte) if dear else per_byte <= np.median(per_byte)
    weights = np.where(inside, 1.0, 0.05)
    return weights / weights.sum()


def _bytes_per_work_second(pool: Pool) -> float:
    """Such that the dear mix asks for ``level`` of the cores."""
    dear = _mix(pool, dear=True)
    return float((dear * pool.lengths).sum() / (dear * pool.cost_seconds).sum()) * 1.2
