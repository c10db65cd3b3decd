"""Bounds and largest steps of the guard: pure functions from a wanted value to one that may be granted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from streamspec.core.control import EVERYTHING, LANE_KNOBS, Knob, LanePlan, Plan, Proposal, Value
from streamspec.core.resources import Allocation
from streamspec.engine.guard_config import BoundsConfig, GuardConfig

CONTINUOUS: tuple[Knob, ...] = ("bytes_per_second", "cache_bytes", "gpu_memory_bytes", "headroom", "batch")
"""Knobs with a dead band."""

CAPACITY: tuple[Knob, ...] = ("lanes", "workers", "nice", "cores")
"""Knobs that share one cause and effect."""

FREE: tuple[Knob, ...] = ("variant_price", "intake")
"""Knobs with a law of their own, moved at every decision: never held back for attribution."""


@dataclass(frozen=True)
class Clamped:
    """A value that may be granted, or ``rule`` and ``why`` it may not; with a value, ``rule`` says what cut it."""

    value: Value = None
    rule: str = ""
    why: str = ""
    refused: bool = False


def refuse(rule: str, why: str) -> Clamped:
    """Nothing is granted."""
    return Clamped(None, rule, why, refused=True)


def scalar_range(knob: Knob, bounds: BoundsConfig, ceiling: int) -> tuple[float, float]:
    """Lowest and highest value of a scalar knob."""
    ranges: dict[str, tuple[float, float]] = {
        "workers": (1, ceiling),
        "nice": (bounds.nice_low, bounds.nice_high),
        "batch": (1, bounds.batch),
        "bytes_per_second": (0.0, bounds.bytes_per_second),
        "cache_bytes": (0, bounds.cache_bytes),
        "gpu_memory_bytes": (0, bounds.gpu_memory_bytes),
        "variant_price": (0.0, 1.0),
        "headroom": (bounds.headroom_low, 1.0),
    }
    return ranges[knob]


def clamp_scalar(proposal: Proposal, plan: Plan, config: GuardConfig, ceiling: int) -> Clamped:
    """A number within its bounds and the largest step."""
    wanted = proposal.after
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not math.isfinite(wanted):
        return refuse("invalid", f"{wanted!r} is no finite number")
    low, high = scalar_range(proposal.knob, config.bounds, ceiling)
    if proposal.knob == "workers":
        lane = plan.lane(proposal.lane)
        others = plan.workers - (lane.allocation.workers if lane is not None else 0)
        high = max(min(high, ceiling - others), low)
    value = min(max(float(wanted), low), high)
    rule = "bounds" if value != wanted else ""
    before = present_value(proposal, plan)
    if not proposal.urgent and isinstance(before, int | float) and before > 0 and proposal.knob not in ("nice", *FREE):
        stepped = min(
            max(value, before * (1 - config.step_down_ratio)), max(before * config.step_up_factor, before + 1)
        )
        stepped = min(max(stepped, low), high)
        rule, value = ("largest_step", stepped) if stepped != value else (rule, value)
    if proposal.knob in ("workers", "nice", "batch", "cache_bytes", "gpu_memory_bytes"):
        value = math.ceil(value)
    return Clamped(value, rule, f"granted {value:g} of {wanted:g}" if rule else "")


def present_value(proposal: Proposal, plan: Plan) -> Value:
    """The knob as it is in the plan, whatever the proposal says it was."""
    if proposal.knob in LANE_KNOBS:
        lane = plan.lane(proposal.lane)
        return None if lane is None else getattr(lane.allocation, proposal.knob)
    if proposal.knob == "lanes":
        return plan.lanes
    if proposal.knob == "variant_price":
        return plan.variant_price
    return plan.intake if proposal.knob == "intake" else plan.targets.get(proposal.knob)


def clamp_lanes(proposal: Proposal, plan: Plan, config: GuardConfig, ceiling: int) -> Clamped:
    """Whole lanes: well formed, every traffic class served, workers within bounds and the largest step."""
    wanted = proposal.after
    fault = lanes_fault(wanted, plan)
    if fault or not isinstance(wanted, tuple):
        return refuse("invalid", fault or "not a tuple of lanes")
    lanes = [replace(lane, allocation=_bounded(lane.allocation, config.bounds, ceiling)) for lane in wanted]
    if len(lanes) > ceiling:
        return refuse("bounds", f"{len(lanes)} lanes need a worker each and there are {ceiling}")
    low, high = 1, ceiling
    if not proposal.urgent:
        low = math.floor(plan.workers * (1 - config.step_down_ratio) + 1e-9)
        high = min(ceiling, max(math.floor(plan.workers * config.step_up_factor), plan.workers + 1, len(lanes)))
    total = sum(lane.allocation.workers for lane in lanes)
    fitted = _fit_workers(lanes, max(low, 1), high)
    rule = "" if tuple(fitted) == wanted else "bounds" if total > ceiling or tuple(lanes) != wanted else "largest_step"
    granted = sum(lane.allocation.workers for lane in fitted)
    return Clamped(tuple(fitted), rule, f"granted {granted} workers of {total}" if rule else "")


def lanes_fault(value: Value, plan: Plan) -> str:
    """What is wrong with lanes; empty when nothing is."""
    if not isinstance(value, tuple) or not value or not all(isinstance(lane, LanePlan) for lane in value):
        return "not a tuple of lanes"
    if len({lane.name for lane in value}) != len(value):
        return "two lanes have the same name"
    if {lane.traffic for lane in value} != {lane.traffic for lane in plan.lanes}:
        return "not the traffic classes that there are"
    for traffic in {lane.traffic for lane in value}:
        cuts = [lane.up_to_work_ns for lane in value if lane.traffic == traffic]
        if any(not cut > 0 for cut in cuts) or cuts[-1] != EVERYTHING or sorted(set(cuts)) != cuts:
            return f"cuts of {traffic} do not ascend to everything"
    for lane in value:
        numbers = (lane.allocation.workers, lane.allocation.bytes_per_second, lane.allocation.batch)
        if not all(math.isfinite(number) for number in numbers):
            return f"lane {lane.name} has no finite allocation"
    return ""


def _bounded(allocation: Allocation, bounds: BoundsConfig, ceiling: int) -> Allocation:
    return replace(
        allocation,
        workers=int(min(max(allocation.workers, 1), ceiling)),
        nice=int(min(max(allocation.nice, bounds.nice_low), bounds.nice_high)),
        batch=int(min(max(allocation.batch, 1), bounds.batch)),
        bytes_per_second=min(max(allocation.bytes_per_second, 0.0), bounds.bytes_per_second),
        cache_bytes=int(min(max(allocation.cache_bytes, 0), bounds.cache_bytes)),
        gpu_memory_bytes=int(min(max(allocation.gpu_memory_bytes, 0), bounds.gpu_memory_bytes)),
    )


def _fit_workers(lanes: Sequence[LanePlan], low: int, high: int) -> list[LanePlan]:
    """Take from the least urgent, give to the most urgent, never below one."""
    counts = [lane.allocation.workers for lane in lanes]
    for place in reversed(range(len(counts))):
        excess = sum(counts) - high
        if excess > 0:
            counts[place] = max(counts[place] - excess, 1)
    if sum(counts) < low:
        counts[0] += low - sum(counts)
    return [
        replace(lane, allocation=replace(lane.allocation, workers=count))
        for lane, count in zip(lanes, counts, strict=True)
    ]


def with_value(plan: Plan, proposal: Proposal, value: Value) -> Plan:
    """The plan with one knob set."""
    changes: dict[str, Any] = {proposal.knob: value}
    if proposal.knob in LANE_KNOBS:
        lanes = tuple(
            replace(lane, allocation=replace(lane.allocation, **changes)) if lane.name == proposal.lane else lane
            for lane in plan.lanes
        )
        return replace(plan, lanes=lanes)
    if proposal.knob in ("lanes", "variant_price", "intake"):
        return replace(plan, **changes)
    return replace(plan, targets={**plan.targets, **changes})


def widened_dead_band(config: GuardConfig, since_start_seconds: float) -> float:
    """The dead band, wider while little has been seen (as Kubernetes VPA widens its bounds by lack of history)."""
    return config.dead_band_ratio * (1.0 + config.data_seconds / max(since_start_seconds, 0.1))


def within_dead_band(before: Value, after: Value, band: float) -> bool:
    """The change is too small to be worth a step."""
    if not isinstance(before, int | float) or not isinstance(after, int | float) or before == 0:
        return before == after
    return abs(after - before) < band * abs(before)
