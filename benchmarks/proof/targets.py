"""What the service must reach, and how that is read from the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.control.hindsight import best_static
from benchmarks.proof.results import OURS, Entry, JobResults

LIGHT_P99 = "light_p99_seconds"
PLAIN_PROTOCOL = "asyncio protocol on uvloop"
ON_LOAD = "90% of own capacity"
AT_BEST_PEER = "90% of the best peer's capacity"


@dataclass(frozen=True)
class Target:
    """One row of the table.

    Attributes:
        value: None when it was not measured. More is better.
    """

    letter: str
    text: str
    least: float
    value: Callable[[JobResults], float | None]


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def over(contender: str, measure: str, phase: str = "") -> Callable[[JobResults], float | None]:
    """Ours by a contender's."""

    def value(results: JobResults) -> float | None:
        ours, other = results.entry(phase, OURS), results.entry(phase, contender)
        return _ratio(ours.median(measure), other.median(measure)) if ours and other else None

    return value


def _peers(results: JobResults, phase: str, measure: str, without: str = "") -> list[float]:
    found = []
    for name, entry in results.phases.get(phase, {}).items():
        median = entry.median(measure)
        if not name.startswith(OURS) and not (without and name.startswith(without)) and median is not None:
            found.append(median)
    return found


def _ours(results: JobResults, phase: str, measure: str) -> list[float]:
    entries = [entry for name, entry in results.phases.get(phase, {}).items() if name.startswith(OURS)]
    return [median for entry in entries if (median := entry.median(measure)) is not None]


def over_best(measure: str, phase: str = "", without: str = "") -> Callable[[JobResults], float | None]:
    """Ours by the largest of the others'."""

    def value(results: JobResults) -> float | None:
        ours, others = _ours(results, phase, measure), _peers(results, phase, measure, without)
        return _ratio(max(ours), max(others)) if ours and others else None

    return value


def under_best(measure: str, phase: str, own_phase: str | None = None) -> Callable[[JobResults], float | None]:
    """The smallest of the others' by ours."""

    def value(results: JobResults) -> float | None:
        ours, others = _ours(results, own_phase or phase, measure), _peers(results, phase, measure)
        return _ratio(min(others), min(ours)) if ours and others else None

    return value


def _light_latency(results: JobResults) -> float | None:
    """Of the peer with the highest capacity at 90 % of it, by ours at that same rate."""
    rates = {
        name: entry.median("records_per_second")
        for name, entry in results.phases.get("saturation", {}).items()
        if not name.startswith(OURS)
    }
    measured = {name: rate for name, rate in rates.items() if rate is not None}
    if not measured:
        return None
    peer = results.entry(ON_LOAD, max(measured, key=lambda name: measured[name]))
    ours = _ours(results, AT_BEST_PEER, LIGHT_P99)
    return _ratio(peer.median(LIGHT_P99), min(ours)) if peer and ours else None


def _best_static(results: JobResults, shape: str) -> Entry | None:
    entries = [e for name, e in results.phases.get(shape, {}).items() if name.startswith("static") and e.measures]
    if not entries:
        return None
    return best_static(entries, lambda e: e.median("miss_ratio") or 0.0, lambda e: e.median("workers") or 0.0)


def fewer_misses(shape: str) -> Callable[[JobResults], float | None]:
    """Percentage points by which we miss less than the best static setting."""

    def value(results: JobResults) -> float | None:
        ours, best = results.entry(shape, OURS), _best_static(results, shape)
        if ours is None or best is None or ours.median("miss_ratio") is None:
            return None
        return 100 * ((best.median("miss_ratio") or 0.0) - (ours.median("miss_ratio") or 0.0))

    return value


def fewer_workers(shape: str) -> Callable[[JobResults], float | None]:
    """Worker-seconds of the best static setting by ours."""

    def value(results: JobResults) -> float | None:
        ours, best = results.entry(shape, OURS), _best_static(results, shape)
        return _ratio(best.median("workers"), ours.median("workers")) if ours and best else None

    return value


SATURATION = "saturation"
CONTROLLED = {"steady": 1.0, "diurnal": 1.25, "bursts": 1.25, "content shift": 1.25}
"""Shapes of load, and what the worker-seconds of the best static setting shall be of ours."""
TARGETS = (
    Target("A", "records/s at saturation, by the best peer's", 1.5, over_best("records_per_second", SATURATION)),
    Target("A", "p99 of light records at 90 % of the best peer's capacity: the peer's by ours", 10.0, _light_latency),
    Target("A", "CPU per GiB: the least of any peer's by ours", 1.0, under_best("cpu_seconds_per_gib", SATURATION)),
    Target("B", "loss-free messages/s, by rsyslog's", 0.7, over("rsyslog (imudp)", "records_per_second")),
    Target("B", "loss-free messages/s, by a plain protocol's", 3.0, over(PLAIN_PROTOCOL, "records_per_second")),
    Target("C", "packets/s, by nfstream's", 20.0, over("nfstream", "packets_per_second")),
    Target("C", "packets/s, by tshark's", 35.0, over("tshark", "packets_per_second")),
    Target("C", "packets/s, by those of tcpdump's bare copy", 1.0, over("tcpdump -w (copy)", "packets_per_second")),
    Target("D", "drop-free packets/s, by the best but tcpdump's", 1.0, over_best("packets_per_second", "", "tcpdump")),
    *(Target("E", f"{s}: points of misses below the best static setting", 0.0, fewer_misses(s)) for s in CONTROLLED),
    *(
        Target("E", f"{s}: worker-seconds of the best static setting, by ours", least, fewer_workers(s))
        for s, least in CONTROLLED.items()
    ),
)
