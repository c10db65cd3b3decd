"""Policies on the simulated plant: misses, worker-seconds and switches on four shapes of load, against static settings.

``python -m benchmarks.control_simulated [--json] [--seeds N] [--seconds S] [--latency-ms L] [--tuner-seconds S]``.
Simulated, not measured: two cores, service times drawn from a mix and predicted with errors of about a fifth of the
work, the guard and the policies as they run in service, exploration of the tuner on. Every policy of a seed sees the
same arrivals. There is no learner in it, so no learning phase either.

``best static`` is chosen with hindsight for each shape and seed from all of the sweep (1 to 4 workers, one lane or two
with each of three cuts, batch 1 or 16): the fewest worker-seconds of those that meet the objective, and if none does,
the fewest misses. ``oracle`` is the planner with true costs that sees the arrivals of the coming second, without
cooldown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamspec.core.control import Advice, LanePlan, Objective, Observation, Plan, Policy, cost_bins
from streamspec.core.resources import Allocation
from streamspec.engine.guard_config import GuardConfig
from streamspec.policies.aimd import AimdPolicyConfig
from streamspec.policies.ds2 import Ds2PolicyConfig
from streamspec.policies.gradient import GradientPolicyConfig
from streamspec.policies.planner import PlannerPolicy, PlannerPolicyConfig
from streamspec.policies.reflex import ReflexPolicy
from streamspec.policies.tuner import TunerConfig, TunerPolicy
from streamspec.simulation.loop import Run, simulate, single_lane
from streamspec.simulation.plant import TrafficClass
from streamspec.simulation.workload import SHAPES, Workload, build_workload, load_shape, with_error

LEVELS = {"steady": 0.6, "diurnal": 0.7, "bursts": 0.5, "content_shift": 0.6}
"""Mean load in cores; peaks are 1.0 to 1.5 of the 1.7 that two cores give."""
CUTS_NS = (0.7e6, 2e6, 6e6)
EAGER = GuardConfig(down_after_decisions=1, down_after=0.0, learn_first=0.0)


class Oracle:
    """The planner, told true arrivals and costs of the coming second."""

    name = "oracle"

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._planner = PlannerPolicy(PlannerPolicyConfig(caution=0.0, headroom=1.0, budget=1.0))

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """As the planner, on what is coming instead of what was seen."""
        now_ns = observation.now_seconds * 1e9
        arrival = self._workload.arrival_ns
        low, high = np.searchsorted(arrival, [now_ns, now_ns + 1e9])
        work = self._workload.work_ns[low:high, 0]
        bins = cost_bins(work) if len(work) else np.zeros(0, dtype=np.int64)
        count = np.bincount(bins, minlength=56).astype(float)
        seconds = np.bincount(bins, work / 1e9, 56)
        squares = np.bincount(bins, (work / 1e9) ** 2, 56)
        traffic = observation.traffic[0]
        histogram = replace(
            traffic.arrivals,
            per_second=tuple(count),
            work_seconds_per_second=tuple(seconds),
            finished_per_second=tuple(count),
            measured_seconds_per_second=tuple(seconds),
            measured_squares_per_second=tuple(squares),
        )
        told = replace(observation, traffic=(replace(traffic, arrivals=histogram, burst_ratio=1.0),))
        return self._planner.decide(told, plan)


@dataclass(frozen=True)
class Case:
    """One policy: what it starts with and who decides."""

    plan: Plan
    policies: Callable[[Workload], list[Policy]]
    reflex: bool = False
    guard: GuardConfig | None = None


def two_lanes(light: int, heavy: int, cut_ns: float, batch: int) -> Plan:
    """A light lane that preempts a heavy one."""
    return Plan(
        (
            LanePlan("light", Allocation(light, batch=batch), up_to_work_ns=cut_ns),
            LanePlan("heavy", Allocation(heavy, nice=10, batch=1), urgency=1),
        )
    )


def static_settings() -> dict[str, Plan]:
    """The sweep."""
    plans = {f"1 lane, {w} workers, batch {b}": single_lane(w, batch=b) for w in (1, 2, 3, 4) for b in (1, 16)}
    for light, heavy in ((1, 1), (2, 1), (1, 2), (2, 2)):
        for cut in CUTS_NS:
            for batch in (1, 16):
                name = f"{light}+{heavy} workers, cut {cut / 1e6:g} ms, batch {batch}"
                plans[name] = two_lanes(light, heavy, cut, batch)
    return plans


def adaptive_cases(tuner_seconds: float, seed: int) -> dict[str, Case]:
    """All that changes while it runs; they start with all cores in one lane."""
    start = single_lane(2)
    tuned = replace(start, targets={"headroom": 0.9})

    def planner(workload: Workload) -> list[Policy]:
        tuner = TunerPolicy(TunerConfig(period=tuner_seconds), np.random.default_rng(seed))
        return [PlannerPolicyConfig().build(), tuner]

    return {
        "planner": Case(tuned, planner, reflex=True),
        "aimd": Case(start, lambda _: [AimdPolicyConfig(type="aimd").build()]),
        "gradient": Case(start, lambda _: [GradientPolicyConfig(type="gradient").build()]),
        "ds2": Case(start, lambda _: [Ds2PolicyConfig(type="ds2").build()]),
        "oracle": Case(start, lambda workload: [Oracle(workload)], reflex=True, guard=EAGER),
    }


def run_case(case: Case, workload: Workload, objective: Objective) -> Run:
    """One run."""
    return simulate(
        workload,
        case.policies(workload),
        plan=case.plan,
        reflexes=(ReflexPolicy(),) if case.reflex else (),
        guard=case.guard,
        traffic=(TrafficClass(objective=objective),),
        keep=False,
    )


def row(name: str, run: Run) -> dict[str, Any]:
    """Numbers of one run."""
    return {
        "setting": name,
        "miss_ratio": run.miss_ratio,
        "p99_seconds": run.quantile(0.99),
        "mean_workers": run.mean_workers,
        "switches": run.switches,
    }


def best(rows: list[dict[str, Any]], budget: float) -> dict[str, Any]:
    """With hindsight: the cheapest that meets the objective, else the one with the fewest misses."""
    able = [entry for entry in rows if entry["miss_ratio"] <= budget]
    if able:
        return min(able, key=lambda entry: (entry["mean_workers"], entry["miss_ratio"]))
    return min(rows, key=lambda entry: entry["miss_ratio"])


def measure(
    shape: str, seed: int, seconds: float, objective: Objective, tuner_seconds: float
) -> dict[str, dict[str, Any]]:
    """All policies on one shape and seed."""
    rng = np.random.default_rng(seed)
    arrival, work, shifts = load_shape(shape, rng, seconds=seconds, level=LEVELS[shape])
    workload = with_error(build_workload(arrival, work, shift_seconds=shifts), rng)
    settings = static_settings().items()
    static = [row(name, run_case(Case(plan, lambda _: []), workload, objective)) for name, plan in settings]
    found = {"best static": best(static, objective.miss_budget_ratio)}
    found["default static"] = next(entry for entry in static if entry["setting"] == "1 lane, 2 workers, batch 16")
    for name, case in adaptive_cases(tuner_seconds, seed).items():
        found[name] = row(name, run_case(case, workload, objective))
    for entry in found.values():
        entry["true_shifts"] = len(shifts)
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half a 95 % interval."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values)), 2.0 * spread / max(len(values), 1) ** 0.5


def summary(results: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per policy over all seeds; workers also paired with the best static setting and the oracle."""
    rows = []
    for name in results[0]:
        mine = [result[name] for result in results]
        to_static = [r[name]["mean_workers"] / r["best static"]["mean_workers"] for r in results]
        to_oracle = [r[name]["mean_workers"] / r["oracle"]["mean_workers"] for r in results]
        rows.append(
            {
                "policy": name,
                "missed_percent": interval([entry["miss_ratio"] * 100 for entry in mine]),
                "worst_missed_percent": max(entry["miss_ratio"] * 100 for entry in mine),
                "p99_ms": interval([entry["p99_seconds"] * 1e3 for entry in mine]),
                "workers": interval([entry["mean_workers"] for entry in mine]),
                "workers_to_best_static": interval(to_static),
                "workers_to_oracle": interval(to_oracle),
                "switches": interval([float(entry["switches"]) for entry in mine]),
                "true_shifts": mine[0]["true_shifts"],
            }
        )
    return rows


def show(shape: str, rows: list[dict[str, Any]]) -> None:
    """A table of one shape."""
    print(f"\n{shape}: mean load {LEVELS[shape]:g} cores, {rows[0]['true_shifts']} true shifts")
    headings = (("missed %", 16), ("worst %", 9), ("p99 ms", 10), ("workers", 14), ("/static", 9), ("/oracle", 9))
    print(f"{'policy':15s}" + "".join(f"{text:>{width}s}" for text, width in headings) + " switches")
    for entry in rows:
        missed, workers = entry["missed_percent"], entry["workers"]
        shown = (
            f"{entry['policy']:15s} {missed[0]:7.3f} ± {missed[1]:5.3f} {entry['worst_missed_percent']:8.3f}",
            f"{entry['p99_ms'][0]:9.2f} {workers[0]:6.2f} ± {workers[1]:4.2f}",
            f"{entry['workers_to_best_static'][0]:8.2f} {entry['workers_to_oracle'][0]:8.2f}",
            f"{entry['switches'][0]:8.1f}",
        )
        print(" ".join(shown), flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--tuner-seconds", type=float, default=15.0)
    given = parser.parse_args()
    objective = Objective(given.latency_ms / 1e3, 99.0)
    document: dict[str, Any] = {"simulated": True, "seeds": given.seeds, "seconds": given.seconds, "shapes": {}}
    for shape in SHAPES:
        results = [measure(shape, seed, given.seconds, objective, given.tuner_seconds) for seed in range(given.seeds)]
        document["shapes"][shape] = summary(results)
        if not given.json:
            show(shape, document["shapes"][shape])
    if given.json:
        json.dump(document, sys.stdout)
        print()


if __name__ == "__main__":
    main()
