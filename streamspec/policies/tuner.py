"""Policy ``tuner``: a small contextual bandit over targets, slow, neighbours only, off while there is a backlog.

Every half minute or so it judges what it had set (cost: workers as a share of the ceiling when the objective held,
2 plus the latency over the objective when it did not; Autothrottle, NSDI'24) and picks among the present values of the
targets and their neighbours on a grid. One regressor per action and target learns the cost in its context (River's
linear regression). Every choice is logged with its propensity, so that other policies can be judged from the log.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from streamspec.core.control import Advice, Effect, Knob, Observation, Plan, Proposal
from streamspec.core.units import Seconds
from streamspec.policies.base import PolicyConfigBase

if TYPE_CHECKING:
    import numpy as np

GRIDS: dict[Knob, tuple[float, ...]] = {
    "headroom": (0.6, 0.7, 0.8, 0.9, 1.0),
    "batch": (1, 2, 4, 8, 16, 32, 64),
}
"""Values of each target."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Grid of the first lane's share of the bandwidth that the lanes have together."""

KEPT = 4096
"""Trials remembered."""


class TunerConfig(PolicyConfigBase):
    """How slowly, and how boldly, targets are tried."""

    enabled: bool = Field(default=True, description="Tune targets while the service runs.")
    period: Seconds = Field(
        default=45.0, gt=0, le=86_400, description="Seconds between two choices (30 to 60 s is sensible)."
    )
    warm_up_ratio: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="Share of a period after a change that is not counted: what the value before left behind (0 to 1).",
    )
    explore: float = Field(
        default=0.1, ge=0, le=1, description="Probability of a random neighbour in place of the best one (0 to 1)."
    )
    seed: int = Field(default=1, ge=0, description="Of the random choices.")

    def build(self) -> TunerPolicy:
        """The policy."""
        return TunerPolicy(self)


@dataclass(frozen=True)
class Trial:
    """A choice and what it cost.

    Attributes:
        context: features of the situation when it was chosen.
        actions: values that could be chosen; ``propensities`` in the same order.
        action: the one chosen.
        cost: filled in at the end of its period.
    """

    knob: Knob
    lane: str
    context: dict[str, float]
    actions: tuple[float, ...]
    propensities: tuple[float, ...]
    action: float
    at_seconds: float
    cost: float | None = None

    @property
    def propensity(self) -> float:
        """Of the action taken."""
        return self.propensities[self.actions.index(self.action)]


@dataclass
class _Period:
    started_seconds: float
    workers: float = 0.0
    excess: float = 0.0
    missed: float = 0.0
    finished: float = 0.0
    windows: int = 0
    disturbed: bool = False


@dataclass
class TunerLog:
    """Finished trials, the newest last; bounded."""

    trials: deque[Trial] = field(default_factory=lambda: deque(maxlen=KEPT))


class TunerPolicy:
    """Implements ``Policy``. Asked at every decision; answers once a period."""

    name = "tuner"

    def __init__(self, config: TunerConfig | None = None, generator: np.random.Generator | None = None) -> None:
        import numpy

        self._config = config or TunerConfig()
        self._generator = generator or numpy.random.default_rng(self._config.seed)
        self._models: dict[tuple[str, float], Any] = {}
        self._seen: dict[tuple[str, float], int] = {}
        self._trial: Trial | None = None
        self._period: _Period | None = None
        self._turn = 0
        self.log = TunerLog()

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """A proposal at the end of a period, none in between."""
        if not self._config.enabled:
            return Advice(self.name)
        if self._period is None:
            self._period = _Period(observation.now_seconds)
        period = self._period
        self._account(period, observation)
        if observation.now_seconds - period.started_seconds < self._config.period:
            return Advice(self.name)
        self._conclude(period, observation)
        self._period = _Period(observation.now_seconds)
        if period.disturbed or has_backlog(observation):
            return Advice(self.name)
        return Advice(self.name, self._choose(observation, plan))

    # -- judging ------------------------------------------------------------------------------
    def _account(self, period: _Period, observation: Observation) -> None:
        if has_backlog(observation):
            period.disturbed = True
        if observation.now_seconds - period.started_seconds < self._config.warm_up_ratio * self._config.period:
            return
        finished = sum(lane.finished_per_second for lane in observation.lanes)
        period.windows += 1
        period.finished += finished
        period.missed += finished * observation.miss_ratio
        period.workers += sum(lane.allocation.workers for lane in observation.lanes) / max(
            observation.workers_ceiling, 1
        )
        p99 = max((lane.latency_p99_seconds or 0.0 for lane in observation.lanes), default=0.0)
        period.excess += min(p99 / observation.objective.latency_seconds, 10.0)

    def _conclude(self, period: _Period, observation: Observation) -> None:
        trial, self._trial = self._trial, None
        if trial is None:
            return
        if not period.windows or period.finished <= 0:
            return
        cost = period_cost(
            period.missed / period.finished,
            observation.objective.miss_budget_ratio,
            period.workers / period.windows,
            period.excess / period.windows,
        )
        done = replace(trial, cost=cost)
        self.log.trials.append(done)
        key = (trial.knob, trial.action)
        self._model(key).learn_one(trial.context, cost)
        self._seen[key] = self._seen.get(key, 0) + 1

    def _model(self, key: tuple[str, float]) -> Any:
        if key not in self._models:
            from river import linear_model, optim, preprocessing

            self._models[key] = preprocessing.StandardScaler() | linear_model.LinearRegression(
                optimizer=optim.SGD(0.05), intercept_lr=0.3, l2=0.01
            )
        return self._models[key]

    # -- choosing -----------------------------------------------------------------------------
    def _choose(self, observation: Observation, plan: Plan) -> tuple[Proposal, ...]:
        targets = tunable(plan)
        if not targets:
            return ()
        knob, lane, value, grid = targets[self._turn % len(targets)]
        self._turn += 1
        actions = neighbours(grid, value)
        context = context_of(observation)
        costs = [self._expected(knob, action, context) for action in actions]
        propensities = epsilon_greedy(costs, self._config.explore)
        action = actions[int(self._generator.choice(len(actions), p=propensities))]
        self._trial = Trial(knob, lane, context, actions, propensities, action, observation.now_seconds)
        if action == value:
            return ()
        return (self._proposal(plan, self._trial, value, costs[actions.index(action)]),)

    def _expected(self, knob: Knob, action: float, context: dict[str, float]) -> float:
        """Infinite for what was never tried: exploration tries it, greed does not."""
        if not self._seen.get((knob, action)):
            return math.inf
        return float(self._model((knob, action)).predict_one(context))

    def _proposal(self, plan: Plan, trial: Trial, value: float, cost: float) -> Proposal:
        safer = trial.action < value
        total = sum(lane.allocation.bytes_per_second for lane in plan.lanes)
        scale = total if trial.knob == "bytes_per_second" else 1.0
        integral = trial.knob == "batch"
        return Proposal(
            knob=trial.knob,
            lane=trial.lane,
            before=int(value) if integral else value * scale,
            after=int(trial.action) if integral else trial.action * scale,
            direction="up" if safer and trial.knob != "bytes_per_second" else "sideways",
            reason="neighbour_tried" if math.isinf(cost) else "lower_cost_expected",
            detail=f"propensity {trial.propensity:.2f}" + ("" if math.isinf(cost) else f", expected cost {cost:.2f}"),
            expected=Effect(),
            basis="measured",
            policy=self.name,
            propensity=trial.propensity,
        )


def period_cost(miss_ratio: float, budget_ratio: float, workers_ratio: float, latency_ratio: float) -> float:
    """Lexicographic: what was spent (0 to 1) when the objective held; 2 and more, by latency, when it did not."""
    if miss_ratio <= budget_ratio:
        return min(max(workers_ratio, 0.0), 1.0)
    return 2.0 + min(max(latency_ratio, 0.0), 10.0) / 10.0


def has_backlog(observation: Observation) -> bool:
    """A queue whose first segment is older than half the objective."""
    return observation.oldest_age_seconds > 0.5 * observation.objective.latency_seconds


def neighbours(grid: tuple[float, ...], value: float) -> tuple[float, ...]:
    """The grid's nearest value and those beside it, ascending."""
    place = min(range(len(grid)), key=lambda index: abs(grid[index] - value))
    return grid[max(place - 1, 0) : place + 2]


def epsilon_greedy(costs: list[float], explore: float) -> tuple[float, ...]:
    """Probability of each action: ``explore`` shared by all, the rest to the cheapest, or to the middle one when
    nothing is known."""
    count = len(costs)
    best = min(range(count), key=lambda index: costs[index])
    if math.isinf(costs[best]):
        best = count // 2
    return tuple(explore / count + (1.0 - explore) * (index == best) for index in range(count))


def context_of(observation: Observation) -> dict[str, float]:
    """Load and its unevenness; small, so that few samples suffice."""
    burst = max((traffic.burst_ratio for traffic in observation.traffic), default=1.0)
    return {
        "load": observation.routed_work_seconds_per_second / max(observation.usable_cores, 1),
        "burst": min(burst, 10.0),
        "others": observation.host.others_busy_ratio,
    }


def tunable(plan: Plan) -> list[tuple[Knob, str, float, tuple[float, ...]]]:
    """Targets of a plan: ``(knob, lane, present value, grid)``; bandwidth as a share of the lanes' sum."""
    targets: list[tuple[Knob, str, float, tuple[float, ...]]] = []
    if "headroom" in plan.targets:
        targets.append(("headroom", "", plan.targets["headroom"], GRIDS["headroom"]))
    targets += [("batch", lane.name, float(lane.allocation.batch), GRIDS["batch"]) for lane in plan.lanes]
    total = sum(lane.allocation.bytes_per_second for lane in plan.lanes)
    if total > 0 and len(plan.lanes) > 1:
        first = plan.lanes[0]
        targets.append(("bytes_per_second", first.name, first.allocation.bytes_per_second / total, SHARES))
    return targets
