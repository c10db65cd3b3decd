"""What is well and what is not, each with its reason, from recent figures. Facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from streamspec.core.units import format_seconds
from streamspec.telemetry.state import (
    WINDOW_SECONDS,
    ComponentHealth,
    FleetStatus,
    LaneStatus,
    ObjectiveStatus,
    Phase,
)

_PHASES = {
    "starting": "workers are warming up",
    "draining": "draining: nothing new is taken in",
    "stopped": "stopped",
}


def findings(
    *,
    phase: Phase,
    fleet: FleetStatus,
    sources: Mapping[str, bool],
    dropped: Mapping[str, int],
    write_errors: Mapping[str, int],
    lanes: Sequence[LaneStatus],
    late_ratios: Mapping[str, float | None],
    objective: ObjectiveStatus,
    shed: int,
) -> list[ComponentHealth]:
    """One finding per component; counts are those of the last seconds."""
    reason = _PHASES.get(phase, "")
    return [
        ComponentHealth("service", "failed" if reason else "ok", reason, required=True),
        _fleet(fleet),
        *(_source(name, running, dropped.get(name, 0)) for name, running in sources.items()),
        *(_sink(name, errors) for name, errors in write_errors.items()),
        _intake(shed),
        *_lanes(lanes, late_ratios, objective),
    ]


def _fleet(fleet: FleetStatus) -> ComponentHealth:
    if not fleet.ready:
        return ComponentHealth("fleet", "failed", f"none of {fleet.size} workers is ready", required=True)
    if fleet.ready < fleet.size:
        reason = f"{fleet.ready} of {fleet.size} workers are ready"
        return ComponentHealth("fleet", "degraded", reason, required=True)
    return ComponentHealth("fleet", required=True)


def _source(name: str, running: bool, dropped: int) -> ComponentHealth:
    component = f"source {name}"
    if dropped > 0:
        return ComponentHealth(component, "degraded", f"dropped {dropped} packets in the last {WINDOW_SECONDS} s")
    return ComponentHealth(component, reason="" if running else "not reading (any more)")


def _sink(name: str, errors: int) -> ComponentHealth:
    component = f"sink {name}"
    if errors > 0:
        reason = f"{errors} writes failed in the last {WINDOW_SECONDS} s; it tries again"
        return ComponentHealth(component, "degraded", reason)
    return ComponentHealth(component)


def _intake(shed: int) -> ComponentHealth:
    if shed > 0:
        reason = f"{shed} segments were shed in the last {WINDOW_SECONDS} s: the arena was full"
        return ComponentHealth("intake", "degraded", reason)
    return ComponentHealth("intake")


def _lanes(
    lanes: Sequence[LaneStatus], late_ratios: Mapping[str, float | None], objective: ObjectiveStatus
) -> Iterator[ComponentHealth]:
    allowed = 1.0 - objective.percentile / 100.0
    for lane in lanes:
        component, late = f"lane {lane.name}", late_ratios.get(lane.name)
        limit = format_seconds(lane.objective_seconds)
        if late is not None and late > allowed:
            reason = f"{late:.1%} of its segments took longer than {limit} ({allowed:.1%} may)"
            yield ComponentHealth(component, "degraded", reason)
        elif late is None and lane.oldest_seconds > lane.objective_seconds:
            reason = f"nothing finished, the oldest has waited {format_seconds(lane.oldest_seconds)}"
            yield ComponentHealth(component, "degraded", reason)
        else:
            yield ComponentHealth(component)
