"""Policy ``planner``, the default: lanes, cut points and workers from the predicted work that arrives and waits.

For each traffic class it forecasts arrivals over bins of predicted cost, and searches the cheapest lanes (size-interval
assignment; Perséphone, SOSP'21: workers reserved for the short) whose expected misses, on the measured speed-up curve
and the pessimistic side of the forecast, stay within the objective. Growth stops at the curve's peak. It goes up when
the present plan is not enough, and down only when less is enough on a still more pessimistic forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from pydantic import Field

from streamspec.core.control import (
    COST_BINS,
    Advice,
    Direction,
    Effect,
    Forecast,
    LanePlan,
    LaneState,
    Observation,
    Plan,
    Proposal,
    TrafficState,
    Value,
)
from streamspec.core.units import Seconds
from streamspec.policies.base import PolicyConfigBase, measured_curve, preempted_room, useful_ceiling
from streamspec.policies.forecast import Demand, Floats, Forecaster
from streamspec.policies.lanes import Split, lanes_of, split_of
from streamspec.policies.queueing import queueing


class PlannerPolicyConfig(PolicyConfigBase):
    """Lanes and workers by predicted work."""

    type: Literal["planner"] = Field(default="planner", description="Lanes, cuts and workers follow predicted work.")
    headroom: float = Field(
        default=0.9,
        ge=0.3,
        le=1,
        description="Share of the objective's latency that is planned with (0.3 to 1). Lower keeps more in reserve and "
        "costs more workers.",
    )
    budget: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the misses that the objective allows which a new plan may be expected to have (0 to 1).",
    )
    max_lanes: int = Field(
        default=3, ge=1, le=3, description="Most lanes of a traffic class (1 to 3). 1 keeps one queue for everything."
    )
    caution: float = Field(
        default=1.0,
        ge=0,
        le=5,
        description="Standard errors of the forecast that are added when a plan is chosen (0 to 5); one more when it "
        "has fewer workers than the present one.",
    )
    catch_up: Seconds = Field(
        default=1.0, gt=0, le=3600, description="Seconds in which a backlog shall be worked off (up to 3600)."
    )

    def build(self) -> PlannerPolicy:
        """The policy."""
        return PlannerPolicy(self)


@dataclass
class _Class:
    """What is remembered of a traffic class."""

    forecaster: Forecaster = field(default_factory=Forecaster)
    stress: float = 1.0
    """Factor on the unevenness of arrivals while more is missed than the model says."""


@dataclass(frozen=True)
class _Situation:
    """One class at one decision."""

    traffic: TrafficState
    demand: Demand
    present: tuple[LanePlan, ...]
    limit_seconds: float
    curve: Floats
    cores: int
    ceiling: int
    spread: int
    prior_workers: int
    prior_work: float

    def misses(self, split: Split, demand: Demand) -> tuple[float, float]:
        """Share of segments missed, and utilisation of the fullest lane."""
        missed, full = queueing().misses(
            demand.rate, demand.cost, demand.square, split.cut_array, split.worker_array, len(split.workers),
            self.curve, self.cores, self.limit_seconds, demand.dispersion, self.prior_workers, self.prior_work,
        )  # fmt: skip
        return missed / max(demand.per_second, 1e-9), full

    def search(self, demand: Demand, allowed_ratio: float, max_lanes: int) -> tuple[Split, float, float]:
        """The cheapest split, its share of misses and its utilisation."""
        found = np.zeros(queueing().FOUND_WIDTH, dtype=np.int64)
        missed, full = queueing().search(
            demand.rate, demand.cost, demand.square, self.curve, self.cores, self.limit_seconds, demand.dispersion,
            allowed_ratio * demand.per_second, self.ceiling, self.spread, max_lanes, self.prior_workers,
            self.prior_work, found,
        )  # fmt: skip
        lanes = int(found[queueing().FOUND_LANES])
        cuts = found[queueing().FOUND_CUT : queueing().FOUND_CUT + lanes - 1].tolist()
        workers = found[queueing().FOUND_WORKERS : queueing().FOUND_WORKERS + lanes].tolist()
        return Split((*cuts, COST_BINS), tuple(workers)), missed / max(demand.per_second, 1e-9), full


@dataclass(frozen=True)
class _Choice:
    """What a class shall have; ``direction`` ``None``: what it has."""

    lanes: tuple[LanePlan, ...]
    direction: Direction | None = None
    reason: str = ""
    detail: str = ""
    miss_ratio: float = 0.0
    miss_upper_ratio: float = 0.0


class PlannerPolicy:
    """Implements ``Policy``."""

    name = "planner"

    def __init__(self, config: PlannerPolicyConfig | None = None) -> None:
        self._config = config or PlannerPolicyConfig()
        self._classes: dict[str, _Class] = {}
        self._last_seconds: float | None = None

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """At most one proposal, of ``workers`` of one lane or of all ``lanes``."""
        since_last = observation.window_seconds
        if self._last_seconds is not None:
            since_last = max(observation.now_seconds - self._last_seconds, 1e-3)
        self._last_seconds = observation.now_seconds
        situations = self._situations(observation, plan, since_last)
        choices = [self._choose(situation, observation) for situation in situations]
        proposal = _proposal(choices, plan)
        return Advice(self.name, () if proposal is None else (proposal,), _forecast(situations, observation, plan))

    # -- what is ------------------------------------------------------------------------------
    def _situations(self, observation: Observation, plan: Plan, since_last: float) -> list[_Situation]:
        curve, ceiling = measured_curve(observation), useful_ceiling(observation)
        headroom = plan.targets.get("headroom", self._config.headroom)
        cheaper = fastest_work_ratio(observation)
        situations: list[_Situation] = []
        prior_workers, prior_work = 0, 0.0
        classes = sorted(observation.traffic, key=lambda traffic: traffic.urgency)
        for place, traffic in enumerate(classes):
            memory = self._classes.setdefault(traffic.name, _Class())
            demand = memory.forecaster.update(
                traffic.arrivals, observation.window_seconds, since_last, traffic.burst_ratio
            ).scaled_cost(cheaper)
            present = tuple(lane for lane in plan.lanes if lane.traffic == traffic.name)
            left = max(ceiling - prior_workers - (len(classes) - place - 1), 1)
            situation = _Situation(
                traffic, demand, present, traffic.objective.latency_seconds * headroom, curve, observation.usable_cores,
                left, preempted_room(observation, curve), prior_workers, prior_work,
            )  # fmt: skip
            self._learn_stress(memory, situation, observation, since_last)
            situation = _stressed(situation, memory.stress)
            situations.append(situation)
            prior_workers += sum(lane.allocation.workers for lane in present)
            prior_work += demand.work
        return situations

    def _learn_stress(self, memory: _Class, situation: _Situation, observation: Observation, since_last: float) -> None:
        """What is missed beyond what queueing explains makes the planner more careful, slowly forgotten."""
        memory.stress = 1.0 + (memory.stress - 1.0) * np.exp(-since_last / 60.0)
        states = _states_of(situation, observation)
        waits_elsewhere = observation.sinks.wait_ratio + situation.traffic.order_wait_ratio > 0.5
        steady = min((state.since_change_seconds for state in states), default=0.0) > observation.window_seconds + 1.0
        if not situation.present or waits_elsewhere or not steady or memory.forecaster.settled_seconds < 3.0:
            return
        seen = _avoidable_miss_ratio(situation)
        budget = situation.traffic.objective.miss_budget_ratio
        if seen is not None and seen > budget and memory.stress < 8.0:
            expected, _ = situation.misses(split_of(situation.present), _stressed(situation, memory.stress).demand)
            if expected < 0.5 * budget:
                memory.stress *= 1.25

    # -- what shall be ------------------------------------------------------------------------
    def _choose(self, situation: _Situation, observation: Observation) -> _Choice:
        config, objective = self._config, situation.traffic.objective
        if not situation.present:
            split, missed, _ = situation.search(situation.demand, objective.miss_budget_ratio * config.budget, 1)
            return self._become(situation, split, "up", "new_traffic_class", missed, missed)
        if situation.demand.work <= 0.0:
            return self._idle(situation)
        budget = objective.miss_budget_ratio
        backlog = self._backlog(situation, observation)
        demand = situation.demand.with_backlog(backlog, config.catch_up)
        careful = demand.pessimistic(config.caution)
        present = split_of(situation.present)
        missed, _ = situation.misses(present, careful)
        likely, full = situation.misses(present, demand.pessimistic(0.5 * config.caution))
        if likely > budget or full >= queueing().FULL:
            return self._more(situation, present, demand, careful, missed, backlog)
        most_careful = demand.pessimistic(config.caution + 1.0)
        split, less_missed, less_full = situation.search(most_careful, budget * config.budget * 0.8, config.max_lanes)
        if split.total < present.total and less_missed <= budget * config.budget and less_full < queueing().FULL:
            expected, _ = situation.misses(split, demand)
            return self._become(situation, split, "down", "fewer_workers_suffice", expected, less_missed)
        return self._sideways(situation, present, demand, careful, missed)

    def _more(
        self, situation: _Situation, present: Split, demand: Demand, careful: Demand, missed: float, backlog: float
    ) -> _Choice:
        allowed = situation.traffic.objective.miss_budget_ratio * self._config.budget
        split, upper, _ = situation.search(careful, allowed, self._config.max_lanes)
        if split == present or (upper > 0.6 * missed and upper > allowed):
            return _Choice(situation.present)
        expected, _ = situation.misses(split, demand)
        reason = "backlog" if backlog > 0 else "misses_expected"
        direction: Direction = "up" if split.total > present.total else "sideways"
        return self._become(situation, split, direction, reason, expected, upper)

    def _sideways(
        self, situation: _Situation, present: Split, demand: Demand, careful: Demand, missed: float
    ) -> _Choice:
        """Other cuts for the same workers, when that is worth a change."""
        budget = situation.traffic.objective.miss_budget_ratio
        if missed < 0.5 * budget:
            return _Choice(situation.present)
        split, upper, _ = situation.search(careful, budget * self._config.budget, self._config.max_lanes)
        if split.total > present.total or split == present or upper > 0.5 * missed:
            return _Choice(situation.present)
        expected, _ = situation.misses(split, demand)
        return self._become(situation, split, "sideways", "better_cut", expected, upper)

    def _idle(self, situation: _Situation) -> _Choice:
        """Nothing arrives: one lane with one worker stands by."""
        present = split_of(situation.present)
        if present.total == 1:
            return _Choice(situation.present)
        return self._become(situation, Split((COST_BINS,), (1,)), "down", "nothing_arrives", 0.0, 0.0)

    def _become(
        self, situation: _Situation, split: Split, direction: Direction, reason: str, missed: float, upper: float
    ) -> _Choice:
        demand = situation.demand
        lanes = lanes_of(
            split, situation.traffic.name, situation.traffic.urgency, demand, situation.limit_seconds, situation.present
        )
        detail = (
            f"{demand.work:.2f} s of work per second (+/- {demand.sigma_ratio:.0%}) in {demand.per_second:.0f} "
            f"segments; expected misses {missed:.3%}, at most {upper:.3%}"
        )
        return _Choice(lanes, direction, reason, detail, missed, upper)

    def _backlog(self, situation: _Situation, observation: Observation) -> float:
        """Queued work beyond what half the objective's time carries, seconds, pessimistically."""
        states = _states_of(situation, observation)
        queued = sum(state.queued_upper_seconds for state in states)
        workers = sum(lane.allocation.workers for lane in situation.present)
        capacity = queueing().speed_at(situation.curve, workers)
        ordinary = 0.5 * situation.limit_seconds * capacity
        heaviest = max((state.oldest_age_seconds for state in states), default=0.0) > 0.5 * situation.limit_seconds
        return max(queued - ordinary, 0.0) if heaviest else 0.0


def fastest_work_ratio(observation: Observation) -> float:
    """Work that the fastest variant would take over the work as routed, 1 without a price of variants. No workers are
    added for a smaller output: the price fills the time that those for the objective leave, and makes room at once."""
    routed = observation.routed_work_seconds_per_second
    works = [v.work_seconds_per_second for v in observation.variants if v.work_seconds_per_second > 0.0]
    if observation.variant_price is None or routed <= 0.0 or not works:
        return 1.0
    return min(max(min(works) / routed, 0.02), 1.0)


def _stressed(situation: _Situation, stress: float) -> _Situation:
    demand = replace(situation.demand, dispersion=situation.demand.dispersion * stress)
    return replace(situation, demand=demand)


def _states_of(situation: _Situation, observation: Observation) -> list[LaneState]:
    return [state for state in observation.lanes if state.traffic == situation.traffic.name]


def _avoidable_miss_ratio(situation: _Situation) -> float | None:
    """Misses measured of segments that could have met the objective; ``None`` when too few finished."""
    arrivals = situation.traffic.arrivals
    if len(arrivals.finished_per_second) != COST_BINS or len(arrivals.misses_per_second) != COST_BINS:
        return None
    possible = situation.demand.cost < situation.traffic.objective.latency_seconds
    finished = float(np.asarray(arrivals.finished_per_second).sum())
    missed = float((np.asarray(arrivals.misses_per_second) * possible).sum())
    return missed / finished if finished > 100.0 else None


def _proposal(choices: list[_Choice], plan: Plan) -> Proposal | None:
    changed = [choice for choice in choices if choice.direction is not None]
    lanes = tuple(sorted((lane for choice in choices for lane in choice.lanes), key=lambda lane: lane.urgency))
    if not changed or lanes == plan.lanes:
        return None
    order: tuple[Direction, ...] = ("up", "sideways", "down")
    direction = min((choice.direction for choice in changed if choice.direction), key=order.index)
    first = next(choice for choice in changed if choice.direction == direction)
    expected = Effect(
        miss_ratio=max(choice.miss_ratio for choice in changed),
        miss_upper_ratio=max(choice.miss_upper_ratio for choice in changed),
        workers=float(sum(lane.allocation.workers for lane in lanes)),
    )
    single = _single_worker_change(plan.lanes, lanes)
    lane, before, after = ("", plan.lanes, lanes) if single is None else single
    return Proposal(
        knob="lanes" if single is None else "workers",
        lane=lane,
        before=before,
        after=after,
        direction=direction,
        reason=first.reason,
        detail=first.detail,
        expected=expected,
        basis="model",
        policy="planner",
    )


def _single_worker_change(old: tuple[LanePlan, ...], new: tuple[LanePlan, ...]) -> tuple[str, Value, Value] | None:
    """``(lane, before, after)`` when nothing but the number of workers of one lane differs."""
    if [(lane.name, lane.up_to_work_ns, lane.allocation.nice, lane.allocation.batch) for lane in old] != [
        (lane.name, lane.up_to_work_ns, lane.allocation.nice, lane.allocation.batch) for lane in new
    ]:
        return None
    differing = [
        (was.name, was.allocation.workers, will.allocation.workers)
        for was, will in zip(old, new, strict=True)
        if was.allocation.workers != will.allocation.workers
    ]
    return differing[0] if len(differing) == 1 else None


def _forecast(situations: list[_Situation], observation: Observation, plan: Plan) -> Forecast:
    curve = measured_curve(observation)
    capacity = queueing().speed_at(curve, plan.workers)
    queued = sum(state.queued_upper_seconds for state in observation.lanes)
    segments = sum(situation.demand.per_second for situation in situations)
    missed = sum(
        situation.misses(split_of(situation.present), situation.demand)[0] * situation.demand.per_second
        for situation in situations
        if situation.present and situation.demand.work > 0
    )
    return Forecast(
        work_seconds_per_second=sum(situation.demand.work for situation in situations),
        upper_seconds_per_second=sum(situation.demand.pessimistic(2.0).work for situation in situations),
        capacity_seconds_per_second=capacity,
        drain_seconds=queued / max(capacity, 1e-3),
        miss_ratio=min(missed / segments, 1.0) if segments > 0 else 0.0,
    )
