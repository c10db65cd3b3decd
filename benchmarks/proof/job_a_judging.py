"""Whether results are right, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.proof.job_a_cluster import Results, Sent, Step
from benchmarks.proof.job_a_contenders import Running
from benchmarks.proof.job_a_traffic import Traffic

FIRST_SHARE, LAST_SHARE = 0.25, 0.9
"""Rates are taken between these shares of the output, so that neither start nor end counts."""
SETTLING_SHARE = 0.2
"""Of a step, which is left out of its latencies."""
GIB, MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class Verdict:
    """Comparison with the reference, which the bare work function made.

    Attributes:
        lost: None when it was stopped before the end.
        out_of_order: results behind a later one of their key.
        wrong: results that differ from the reference.
    """

    lost: int | None
    duplicated: int
    out_of_order: int
    wrong: int

    @property
    def correct(self) -> bool:
        return not (self.lost or self.duplicated or self.out_of_order or self.wrong)

    def measures(self) -> dict[str, Any]:
        """As the lines of results have it."""
        told: dict[str, Any] = dict(self.__dict__)
        return told | {"correct": self.correct}


def judge(results: Results, traffic: Traffic, bodies: Sequence[int], keys: Sequence[bytes], whole: bool) -> Verdict:
    """Compare what came out with what went in: ``bodies`` and ``keys`` by number of the record.

    Args:
        whole: whether everything had the time to come out.
    """
    expected = traffic.expected
    seen = np.zeros(len(bodies), dtype=np.int64)
    last: dict[bytes, int] = {}
    wrong = disorder = 0
    for number, key, value in zip(results.numbers.tolist(), results.keys, results.values, strict=True):
        if number >= len(bodies) or value != expected[bodies[number]] or key != keys[number]:
            wrong += 1
            continue
        first = not seen[number]
        seen[number] += 1
        if first:  # a repetition is counted as one, and not as disorder too
            disorder += last.get(key, -1) > number
            last[key] = max(number, last.get(key, -1))
    lost = int((seen == 0).sum()) if whole else None
    return Verdict(lost, int(np.maximum(seen - 1, 0).sum()), disorder, wrong)


def saturation_measures(results: Results, running: Running, traffic: Traffic, count: int) -> dict[str, Any]:
    """Rates and costs between two shares of the output."""
    moments = np.sort(results.appended_seconds)
    first, last = int(len(moments) * FIRST_SHARE), int(len(moments) * LAST_SHARE)
    start, end = float(moments[first]), float(moments[last])
    mean_bytes = traffic.bytes_of(count) / count
    records = last - first
    amount_bytes = records * mean_bytes
    cpu_seconds = running.usage.cpu_between(start, end)
    return {
        "records_per_second": records / (end - start),
        "mib_per_second": amount_bytes / MIB / (end - start),
        "cpu_seconds_per_gib": cpu_seconds / (amount_bytes / GIB),
        "cores_used": cpu_seconds / (end - start),
        "peak_memory_bytes": running.usage.peak_bytes,
        "time_to_first_result_seconds": float(moments[0]) - running.started,
    }


def load_measures(
    results: Results, sent: Sent, steps: Sequence[Step], traffic: Traffic, running: Running, first_step: int
) -> list[dict[str, Any]]:
    """Latencies from the moment that a record was due to its result's arrival at the broker, by step."""
    heavy = np.array([traffic.bodies[body].heavy for body in sent.bodies])
    sizes = np.array([len(traffic.bodies[body].content) for body in sent.bodies])
    late = np.array(sent.late_seconds)
    due, number_of_step = np.array(sent.due_seconds), np.array(sent.steps)
    appended = np.full(len(due), np.nan)
    numbers = results.numbers
    appended[numbers[::-1]] = results.appended_seconds[::-1]  # the first result of a record counts
    latency = appended - due
    made = []
    for index, step in enumerate(steps, first_step):
        here = number_of_step == index
        start, end = float(due[here].min()), float(due[here].max())
        settled = here & (due >= start + SETTLING_SHARE * step.seconds)
        measures: dict[str, Any] = {
            "offered_records_per_second": step.rate,
            "records_per_second": float((here & (appended <= end)).sum()) / (end - start),
            "cpu_seconds_per_gib": running.usage.cpu_between(start, end) / (float(sizes[here].sum()) / GIB),
            "peak_memory_bytes": running.usage.peak_bytes,
            "sender_late_p99_seconds": float(np.percentile(late[settled], 99)),
        }
        for name, kind in (("", here >= 0), ("light_", ~heavy), ("heavy_", heavy)):
            measures |= _percentiles(latency[settled & kind], name)
        made.append(measures)
    return made


def _percentiles(latency: npt.NDArray[np.float64], name: str) -> dict[str, float | None]:
    latency = latency[~np.isnan(latency)]
    shares = {"p50": 50.0, "p99": 99.0, "p999": 99.9}
    return {
        f"{name}{key}_seconds": float(np.percentile(latency, share)) if len(latency) else None
        for key, share in shares.items()
    }
