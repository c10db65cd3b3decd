"""Policy ``reflex``: nothing learned, every few tens of milliseconds. What comes late now gets all there is.

A queue whose first segment is older than half its objective, whose last one will miss it, and which holds more work
than arrivals so far explain, sends the lanes to the known safe allocation; an arena near its cap slows and then stops
intake (Caladan, OSDI'20: queueing delay is the signal).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from streamspec.core.control import (
    COST_BINS,
    Advice,
    Effect,
    LanePlan,
    LaneState,
    Observation,
    Plan,
    Proposal,
    cost_bins,
)
from streamspec.policies.base import PolicyConfigBase, measured_curve, preempted_room, useful_ceiling, with_workers

DOOMED_RATIO = 1.25
"""Age of the first plus drain of the rest, over the objective, at which some will miss it for certain."""

HOPELESS_RATIO = 1.5
"""Age over the objective at which a queue is late whatever the reason."""
SURGE_SIGMAS = 2.5
PRICE_DROP = 8.0
"""Factor by which a late queue lowers the price of bytes at once, and not again for a while."""
PRICE_PAUSE_SECONDS = 0.5


class ReflexConfig(PolicyConfigBase):
    """When everything is given at once, and when intake slows."""

    age_ratio: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the objective's latency at which the age of a waiting segment is an alarm (0 to 1). "
        "Lower alarms earlier and more often for nothing.",
    )
    slow_at_ratio: float = Field(
        default=0.85, gt=0, le=1, description="Share of the arena from which on intake is slowed (0 to 1)."
    )
    pause_at_ratio: float = Field(
        default=0.95, gt=0, le=1, description="Share of the arena from which on intake is paused (0 to 1)."
    )
    slow_below_ratio: float = Field(
        default=0.6, ge=0, le=1, description="Share of the arena below which a paused intake is slow again (0 to 1)."
    )
    open_below_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the arena below which intake is open again (0 to 1). A slowed intake holds a quarter of "
        "it, so that below a quarter means that the source itself has no more.",
    )

    def build(self) -> ReflexPolicy:
        """The policy."""
        return ReflexPolicy(self)


class ReflexPolicy:
    """Implements ``Policy``."""

    name = "reflex"

    def __init__(self, config: ReflexConfig | None = None) -> None:
        self._config = config or ReflexConfig()
        self._dropped = -math.inf
        self._rates: dict[str, tuple[float, float]] = {}

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """Urgent proposals, or none."""
        proposals = [*self._intake(observation, plan)]
        self._learn_rates(observation)
        late = self._late(observation)
        if late is not None and plan.variant_price and observation.now_seconds - self._dropped > PRICE_PAUSE_SECONDS:
            self._dropped = observation.now_seconds
            proposals.append(_cheaper(late, plan.variant_price))
        if late is not None and (self._hopeless(late, observation) or self._surges(late)):
            lanes = safe_lanes(observation, plan)
            if lanes != plan.lanes:
                proposals.append(_alarm(late, plan, lanes))
        return Advice(self.name, tuple(proposals))

    def _late(self, observation: Observation) -> LaneState | None:
        """The first lane whose queue is old, and too long for its last segment to be in time."""
        curve = measured_curve(observation)
        for state in observation.lanes:
            limit, age = _limit_seconds(state, observation), state.oldest_age_seconds
            speed = max(float(curve[min(state.workers_observed, len(curve) - 1)]), 1e-3)
            doomed = age + state.queued_upper_seconds / speed > DOOMED_RATIO * limit
            if age > limit * self._config.age_ratio and doomed and state.queued > state.workers_observed:
                return state
        return None

    def _hopeless(self, state: LaneState, observation: Observation) -> bool:
        return state.oldest_age_seconds > HOPELESS_RATIO * _limit_seconds(state, observation)

    def _learn_rates(self, observation: Observation) -> None:
        """Work that arrives for each lane, from whole observations; glances have no histogram."""
        for traffic in observation.traffic:
            work = np.asarray(traffic.arrivals.work_seconds_per_second)
            if len(work) != COST_BINS:
                continue
            rate = np.maximum(np.asarray(traffic.arrivals.per_second), 1e-12)
            squares, low = work**2 / rate, 0
            for state in observation.lanes:
                if state.traffic == traffic.name:
                    high = (
                        COST_BINS if math.isinf(state.up_to_work_ns) else int(cost_bins(state.up_to_work_ns * 1.0001))
                    )
                    self._rates[state.name] = (float(work[low:high].sum()), float(squares[low:high].sum()))
                    low = high

    def _surges(self, state: LaneState) -> bool:
        """More work queued up since the first in the queue came than the known rate of work explains: what comes has
        changed. A queue behind one heavy segment is as long, and no reason to change anything."""
        known = self._rates.get(state.name)
        if known is None:
            return True
        work, squares = known
        age = max(state.oldest_age_seconds, 1e-3)
        return state.queued_work_seconds / age > work + SURGE_SIGMAS * math.sqrt(squares / age)

    def _intake(self, observation: Observation, plan: Plan) -> list[Proposal]:
        used, config = observation.arena_used_ratio, self._config
        wanted: Literal["open", "slow", "paused"] = plan.intake
        if used >= config.pause_at_ratio:
            wanted = "paused"
        elif used >= config.slow_at_ratio and plan.intake == "open":
            wanted = "slow"
        elif used < config.open_below_ratio:
            wanted = "open"
        elif used < config.slow_below_ratio and plan.intake == "paused":
            wanted = "slow"
        if wanted == plan.intake:
            return []
        return [
            Proposal(
                knob="intake",
                lane="",
                before=plan.intake,
                after=wanted,
                direction="up" if used >= config.slow_at_ratio else "down",
                reason="arena_near_cap" if used >= config.slow_at_ratio else "arena_drained",
                detail=f"{used:.0%} of the arena is taken",
                basis="rule",
                policy=self.name,
                urgent=True,
            )
        ]


def _limit_seconds(state: LaneState, observation: Observation) -> float:
    objectives = (traffic.objective for traffic in observation.traffic if traffic.name == state.traffic)
    return next(objectives, observation.objective).latency_seconds


def _cheaper(late: LaneState, price: float) -> Proposal:
    """Smaller work for what comes next: costs bytes, and no switch."""
    return Proposal(
        knob="variant_price",
        lane="",
        before=price,
        after=price / PRICE_DROP,
        direction="up",
        reason="oldest_segment_late",
        detail=f"lane {late.name}: oldest has waited {late.oldest_age_seconds * 1e3:.1f} ms",
        basis="rule",
        policy="reflex",
        urgent=True,
    )


def safe_lanes(observation: Observation, plan: Plan) -> tuple[LanePlan, ...]:
    """The lanes of the plan, each with as many workers as are worth having: the most urgent lane up to the peak
    of the speed-up curve, each further one at least what it has and one beyond what the others take."""
    most = max(useful_ceiling(observation), 1)
    spread = preempted_room(observation, measured_curve(observation), len(plan.lanes) - 1)
    room = min(observation.workers_ceiling, most + spread)
    lanes = list(plan.lanes)
    spare = room - plan.workers
    for index, lane in enumerate(lanes):
        more = min(max(spare, 0), max(most - lane.allocation.workers, 0))
        lanes[index] = with_workers(lane, lane.allocation.workers + more)
        spare -= more
    return tuple(lanes)


def _alarm(late: LaneState, plan: Plan, lanes: tuple[LanePlan, ...]) -> Proposal:
    return Proposal(
        knob="lanes",
        lane="",
        before=plan.lanes,
        after=lanes,
        direction="up",
        reason="oldest_segment_late",
        detail=f"lane {late.name}: oldest has waited {late.oldest_age_seconds * 1e3:.1f} ms, {late.queued} queued",
        expected=Effect(workers=float(sum(lane.allocation.workers for lane in lanes))),
        basis="rule",
        policy="reflex",
        urgent=True,
    )
