"""A policy under the real guard on the simulated plant: one run, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamspec.core.control import Decision, LanePlan, Mode, Plan, Policy
from streamspec.core.resources import Allocation
from streamspec.engine.cycle import Cycle
from streamspec.engine.guard import Guard
from streamspec.engine.guard_config import GuardConfig
from streamspec.simulation import kernels
from streamspec.simulation.observing import ModelSetting, Observer
from streamspec.simulation.plant import Plant, PlantSetting, TrafficClass
from streamspec.simulation.workload import Workload

GLANCE_SECONDS = 0.05
SLOW_DRAIN_SECONDS = 600.0


@dataclass
class Run:
    """What came of one run.

    Attributes:
        latency_seconds: by segment; infinite for what was shed or never finished.
        worker_seconds: granted workers over the time of the run.
        switches: decisions that changed lanes or workers.
        decisions: those that did, refused or settled something.
        history: ``(seconds, workers, lanes, price)`` at each decision.
    """

    latency_seconds: npt.NDArray[np.float64]
    limit_seconds: npt.NDArray[np.float64]
    seconds: float
    worker_seconds: float
    bytes_out: float
    shed: int
    decisions: list[Decision] = field(default_factory=list)
    history: list[tuple[float, int, int, float | None]] = field(default_factory=list)
    switch_times: list[float] = field(default_factory=list)

    @property
    def miss_ratio(self) -> float:
        """Share of segments over their objective."""
        return float((self.latency_seconds > self.limit_seconds).mean()) if len(self.latency_seconds) else 0.0

    @property
    def switches(self) -> int:
        """Decisions that changed lanes or workers."""
        return len(self.switch_times)

    @property
    def mean_workers(self) -> float:
        """Worker-seconds per second."""
        return self.worker_seconds / max(self.seconds, 1e-9)

    def quantile(self, share: float) -> float:
        """Latency in seconds."""
        return float(np.quantile(self.latency_seconds, share, method="lower")) if len(self.latency_seconds) else 0.0


def single_lane(workers: int, batch: int = 1) -> Plan:
    """One lane for everything."""
    return Plan((LanePlan("all", Allocation(workers, batch=batch)),))


def simulate(
    workload: Workload,
    policies: Sequence[Policy],
    *,
    plan: Plan | None = None,
    safe: Plan | None = None,
    setting: PlantSetting | None = None,
    guard: GuardConfig | None = None,
    reflexes: Sequence[Policy] = (),
    mode: Mode = "auto",
    period_seconds: float = 0.25,
    window_seconds: float = 1.0,
    traffic: tuple[TrafficClass, ...] = (TrafficClass(),),
    model: ModelSetting | None = None,
    keep: bool = True,
) -> Run:
    """Run policies over a workload from 0 to its last arrival, then let the rest finish."""
    setting = setting or PlantSetting()
    safe = safe or plan or single_lane(setting.cores)
    plan = plan or safe
    plant = Plant(workload, plan, setting, traffic)
    observer = Observer(plant, window_seconds, model or ModelSetting())
    cycle = Cycle(mode, policies, Guard(guard or GuardConfig(), safe), plan, reflexes=reflexes)
    run = Run(np.zeros(0), np.zeros(0), workload.seconds, 0.0, 0.0, 0)
    steps = max(round(period_seconds / GLANCE_SECONDS), 1)
    for tick in range(1, int(workload.seconds / GLANCE_SECONDS) + 1):
        plant.advance_to(tick * GLANCE_SECONDS)
        if tick % steps == 0:
            decision: Decision | None = cycle.decide(observer.observe())
            run.history.append((plant.now_seconds, cycle.plan.workers, len(cycle.plan.lanes), cycle.plan.variant_price))
        else:
            decision = cycle.glance(observer.glance()) if reflexes else None
        if decision is not None:
            _record(run, decision, cycle.plan, plant, keep)
    run.worker_seconds = plant.worker_seconds + plant.plan.workers * (workload.seconds - plant.now_seconds)
    plant.advance_to(workload.seconds + SLOW_DRAIN_SECONDS)
    return _finish(run, plant)


def _record(run: Run, decision: Decision, plan: Plan, plant: Plant, keep: bool) -> None:
    if _capacity(decision.before) != _capacity(plan):
        run.switch_times.append(plant.now_seconds)
    if keep and (decision.done or decision.refused or decision.settled):
        run.decisions.append(decision)
    plant.apply(plan)


def _capacity(plan: Plan) -> list[tuple[str, float, int]]:
    return [(lane.name, lane.up_to_work_ns, lane.allocation.workers) for lane in plan.lanes]


def _finish(run: Run, plant: Plant) -> Run:
    over = plant.state == kernels.OVER
    run.latency_seconds = np.where(over, plant.finished_ns - plant.workload.arrival_ns, np.inf) / 1e9
    limits = np.array([traffic.objective.latency_seconds for traffic in plant.traffic])
    run.limit_seconds = limits[plant.workload.traffic]
    run.bytes_out = float(plant.bytes_out[over].sum())
    run.shed = int(plant.marks[kernels.SHED])
    return run
