"""Conditions for policies on the simulated plant: what arrives, how it is predicted, on what machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from streamspec.core.control import Objective, Policy
from streamspec.engine.guard_config import GuardConfig
from streamspec.policies.planner import PlannerPolicyConfig
from streamspec.policies.reflex import ReflexPolicy
from streamspec.simulation.loop import Run, simulate, single_lane
from streamspec.simulation.observing import ModelSetting
from streamspec.simulation.plant import PlantSetting, TrafficClass
from streamspec.simulation.workload import HEAVY_MIX, LIGHT_MIX, Mix, Workload, arrivals, build_workload, with_error

MIX = Mix()
Model = Callable[[Workload, np.random.Generator], Workload]


def noisy(workload: Workload, rng: np.random.Generator) -> Workload:
    """A good model: errors sum to a fifth of the work."""
    return with_error(workload, rng)


def ten_times_too_low(workload: Workload, rng: np.random.Generator) -> Workload:
    """Everything looks ten times cheaper than it is."""
    return with_error(workload, rng).predicted_with(workload.work_ns / 10.0)


def three_times_too_high(workload: Workload, rng: np.random.Generator) -> Workload:
    """Everything looks three times dearer than it is."""
    return with_error(workload, rng).predicted_with(workload.work_ns * 3.0)


def shuffled(workload: Workload, rng: np.random.Generator) -> Workload:
    """Each segment has the prediction of another one: the mean is right and nothing else."""
    return workload.predicted_with(rng.permutation(workload.work_ns))


def constant(workload: Workload, rng: np.random.Generator) -> Workload:
    """Everything looks like the mean."""
    return workload.predicted_with(np.full_like(workload.work_ns, workload.work_ns.mean()))


def not_a_number(workload: Workload, rng: np.random.Generator) -> Workload:
    """From 10 s on features are NaN, and so are predictions."""
    predicted = with_error(workload, rng).predicted_ns.copy()
    predicted[workload.arrival_ns > 10e9] = np.nan
    return workload.predicted_with(predicted)


def hostile(workload: Workload, rng: np.random.Generator) -> Workload:
    """From 10 s on one segment in ten costs 15 ms and looks like 0.2 ms."""
    lying = (workload.arrival_ns > 10e9) & (rng.random(len(workload)) < 0.02)
    work = np.where(lying[:, None], 15e6, workload.work_ns * 0.6)
    honest = with_error(replace(workload, work_ns=work), rng)
    predicted = np.where(lying[:, None], 0.2e6, honest.predicted_ns)
    return replace(honest, predicted_ns=predicted, upper_ns=predicted[:, 0] * 1.4)


@dataclass(frozen=True)
class Scenario:
    """Load over time: ``cores``' worth of work from each of the ``times`` on, until ``seconds``."""

    times: tuple[float, ...] = (0.0,)
    cores: tuple[float, ...] = (0.6,)
    seconds: float = 40.0
    mixes: tuple[Mix, ...] = ()
    """By interval; the rate of segments is then that of the first mix throughout."""
    keys: float = 0.0
    """Share of the segments that have one key."""
    model: Model = noisy
    setting: PlantSetting = field(default_factory=PlantSetting)
    latency_seconds: float = 0.05
    says: ModelSetting = field(default_factory=ModelSetting)

    def workload(self, seed: int = 0) -> Workload:
        """Arrivals, costs and predictions."""
        rng = np.random.default_rng(seed)
        edges = np.array([*self.times, self.seconds])
        mixes = self.mixes or (MIX,) * len(self.times)
        rates = np.array(self.cores) / mixes[0].mean_seconds
        arrival = arrivals(rng, edges, rates)
        place = np.searchsorted(edges, arrival / 1e9, side="right") - 1
        work = np.zeros(len(arrival))
        for index, mix in enumerate(mixes):
            work[place == index] = mix.draw(rng, int((place == index).sum()))
        one = rng.random(len(arrival)) < self.keys
        key = np.where(one, -1, np.arange(len(arrival)))
        return self.model(build_workload(arrival, work, key=key, shift_seconds=self.times[1:]), rng)

    def run(
        self, *policies: Policy, seed: int = 0, workers: int = 2, guard: GuardConfig | None = None, reflex: bool = True
    ) -> Run:
        """One run, starting with one lane of ``workers`` workers; the planner without ``policies``."""
        return simulate(
            self.workload(seed),
            policies or (PlannerPolicyConfig().build(),),
            plan=single_lane(workers),
            setting=self.setting,
            guard=guard,
            reflexes=(ReflexPolicy(),) if reflex else (),
            traffic=(TrafficClass(objective=Objective(self.latency_seconds, 99.0)),),
            model=self.says,
        )

    def run_static(self, workers: int = 2, seed: int = 0) -> Run:
        """One lane and nothing else."""
        return self.run(_nothing(), seed=seed, workers=workers, reflex=False)


def _nothing() -> Policy:
    from streamspec.policies.static import StaticPolicy

    return StaticPolicy()


def square_wave(period_seconds: float, low: float = 0.2, high: float = 1.2, seconds: float = 30.0) -> Scenario:
    """Load that goes up and down, half a period each."""
    times = tuple(np.arange(0.0, seconds, period_seconds / 2))
    return Scenario(times, tuple(high if index % 2 else low for index in range(len(times))), seconds)


STEADY = Scenario()
STEP_UP = Scenario((0.0, 15.0), (0.25, 1.3))
STEP_DOWN = Scenario((0.0, 15.0), (1.3, 0.25))
BURST = Scenario((0.0, 15.0, 16.0), (0.3, 1.6, 0.3))
CONTENT_SHIFT = Scenario((0.0, 15.0), (0.36, 0.36), mixes=(LIGHT_MIX, HEAVY_MIX))
ONE_HEAVY_KEY = Scenario(cores=(1.3,), keys=0.9)
SLOW_SINK = Scenario(cores=(0.4,), setting=PlantSetting(sink_bytes_per_second=4.0e6, slots=512))
HARMFUL_WORKER = Scenario(
    cores=(2.2,),
    setting=PlantSetting(speed_up=(0.0, 1.0, 1.85, 1.4, 1.2), workers_ceiling=4, can_wait=False, slots=256),
)
IDLE = Scenario((0.0, 10.0), (0.8, 0.0002))
TOO_LOW = Scenario(cores=(0.3,), model=ten_times_too_low)
TOO_HIGH = Scenario(cores=(0.3,), model=three_times_too_high)
SHUFFLED = Scenario(cores=(0.3,), model=shuffled)
CONSTANT = Scenario((0.0, 15.0), (0.3, 1.2), model=constant)
NOT_A_NUMBER = Scenario(cores=(0.3,), model=not_a_number)
HOSTILE = Scenario(cores=(0.6,), model=hostile)
FROZEN = Scenario((0.0, 45.0), (0.3, 1.2), seconds=60.0, says=ModelSetting(frozen_at_seconds=5.0))
