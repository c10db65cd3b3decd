"""A recorded trace as a workload of the simulated plant.

What was not recorded is filled in from what was: work of segments that were shed, from those of their size; work and
output with a variant that a segment did not take, from the mean ratio between the variants; predictions, where the
service made none, from the mean work of the segment's size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from streamspec.core.control import Objective
from streamspec.core.outcome import SHED
from streamspec.simulation.plant import TWO_CORES, PlantSetting, TrafficClass
from streamspec.simulation.workload import Workload, build_workload
from streamspec.telemetry.trace import Trace

Floats = npt.NDArray[np.float64]
FALLBACK_SPEED = 0.925
"""Useful seconds per second of a busy core among several, where the trace has no measured curve."""


@dataclass(frozen=True)
class Replayable:
    """A trace ready to be simulated; ``notes`` say what was filled in."""

    workload: Workload
    setting: PlantSetting
    traffic: tuple[TrafficClass, ...]
    workers: int
    notes: tuple[str, ...]


def replayable(trace: Trace) -> Replayable:
    """The workload, machine and objective of a trace."""
    rows, header = trace.rows, trace.header
    notes: list[str] = []
    size = np.clip(np.log2(np.maximum(rows["length"].astype(np.float64), 1.0)) * 2, 0, 63).astype(np.int64)
    total = rows["useful_ns"].sum(axis=1).astype(np.float64)
    ran = (rows["ending"] != SHED) & (total > 0)
    by_size = _mean_by(size, total, ran)
    total = np.where(ran, total, by_size[size])
    if not ran.all():
        notes.append(f"{int((~ran).sum())} segments have no measured work; that of their size is taken")
    work, ratio = _variants(trace, total)
    arrival = (rows["arrival_ns"] - rows["arrival_ns"][0]).astype(np.float64)
    workload = build_workload(
        arrival,
        np.maximum(work, 100.0),
        key=rows["key_hash"].view(np.int64),
        length=np.maximum(rows["length"].astype(np.float64), 1.0),
        ratio=ratio,
        default_variant=header.default_variant if header.variants else 0,
    )
    workload = _predict(workload, trace, by_size[size], notes)
    setting = PlantSetting(
        cores=header.cores,
        workers_ceiling=max(2 * header.cores, header.workers),
        speed_up=_curve(trace, notes),
        ordered=header.ordered,
    )
    objective = Objective(header.latency_seconds, header.percentile)
    return Replayable(workload, setting, (TrafficClass(objective=objective),), header.workers, tuple(notes))


def _variants(trace: Trace, total: Floats) -> tuple[Floats, Floats]:
    """Work and output ratio of each segment with each variant, shape (n, v)."""
    rows, header = trace.rows, trace.header
    length = np.maximum(rows["length"].astype(np.float64), 1.0)
    ratio = rows["payload_bytes_out"] / length
    if len(header.variants) < 2 or header.variable_stage < 0:
        return total[:, None], ratio[:, None]
    own = rows["useful_ns"][:, header.variable_stage].astype(np.float64)
    chosen = rows["variant"][:, header.variable_stage].astype(np.int64)
    chosen = np.where((chosen < 0) | (chosen >= len(header.variants)), header.default_variant, chosen)
    per_byte = np.array([_share(own, length, chosen == v) for v in range(len(header.variants))])
    out_ratio = np.array([_share(ratio * length, length, chosen == v) for v in range(len(header.variants))])
    seen = per_byte > 0
    per_byte = np.where(seen, per_byte, per_byte[seen].mean() if seen.any() else 1.0)
    out_ratio = np.where(seen, np.maximum(out_ratio, 1e-6), out_ratio[seen].mean() if seen.any() else 1.0)
    work = (total - own)[:, None] + own[:, None] * per_byte[None, :] / per_byte[chosen][:, None]
    return work, ratio[:, None] * out_ratio[None, :] / out_ratio[chosen][:, None]


def _share(part: Floats, whole: Floats, mask: npt.NDArray[np.bool_]) -> float:
    return float(part[mask].sum() / whole[mask].sum()) if mask.any() else 0.0


def _mean_by(place: npt.NDArray[np.int64], values: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """Mean by place of those in the mask; the mean of all where a place has none."""
    count = np.bincount(place[mask], minlength=64)
    sums = np.bincount(place[mask], values[mask], minlength=64)
    overall = float(values[mask].mean()) if mask.any() else 1e6
    return np.where(count > 0, sums / np.maximum(count, 1), overall)


def _predict(workload: Workload, trace: Trace, by_size: Floats, notes: list[str]) -> Workload:
    predicted = trace.rows["predicted_ns"].astype(np.float64)
    known = predicted > 0
    upper = np.where(known, trace.rows["predicted_upper_ns"].astype(np.float64), by_size * 2.0)
    if not known.all():
        share = 1.0 - known.mean()
        notes.append(f"{share:.0%} of the segments were not predicted; the mean work of their size is taken")
    base = np.where(known, predicted, by_size)
    default = workload.work_ns[:, workload.default_variant]
    ratio = workload.work_ns / np.maximum(default, 1.0)[:, None]
    return replace(workload, predicted_ns=base[:, None] * ratio, upper_ns=np.maximum(upper, base))


def _curve(trace: Trace, notes: list[str]) -> tuple[float, ...]:
    header = trace.header
    if len(header.speed_up) > header.cores and all(value > 0 for value in header.speed_up[1:]):
        return (0.0, *header.speed_up[1:])
    notes.append("no measured speed-up curve; an ordinary one is taken")
    if header.cores == 2:
        return TWO_CORES
    most = 2 * header.cores
    return (0.0, 1.0, *(FALLBACK_SPEED * min(n, header.cores) for n in range(2, most + 1)))
