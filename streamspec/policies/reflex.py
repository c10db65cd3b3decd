"""Policy ``reflex``: nothing learned, every few tens of milliseconds. What is late now gets all there is.

A queue whose first segment is older than half its objective, and whose last one will miss it, sends the lanes to the known safe allocation; an arena near its cap slows and then stops intake (Caladan, OSDI'20: queueing
delay is the signal).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamspec.core.control import Advice, Effect, LanePlan, LaneState, Observation, Plan, Proposal
from streamspec.policies.base import PolicyConfigBase, measured_curve, preempted_room, useful_ceiling, with_workers

DOOMED_RATIO = 1.25
"""Age of the first plus drain of the rest, over the objective, at which some will miss it for certain."""


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
        default=0.35, ge=0, le=1, description="Share of the arena below which intake is open again (0 to 1)."
    )

    def build(self) -> ReflexPolicy:
        """The policy."""
        return ReflexPolicy(self)


class ReflexPolicy:
    """Implements ``Policy``."""

    name = "reflex"

    def __init__(self, config: ReflexConfig | None = None) -> None:
        self._config = config or ReflexConfig()

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """Urgent proposals, or none."""
        proposals = [*self._intake(observation, plan)]
        late = self._late(observation)
        if late is not None:
            lanes = safe_lanes(observation, plan)
            if lanes != plan.lanes:
                proposals.append(_alarm(late, plan, lanes))
        return Advice(self.name, tuple(proposals))

    def _late(self, observation: Observation) -> LaneState | None:
        curve = measured_curve(observation)
        for state in observation.lanes:
            objective = next(
                (t.objective for t in observation.traffic if t.name == state.traffic), observation.objective
            )
            limit, age = objective.latency_seconds, state.oldest_age_seconds
            speed = max(float(curve[min(state.workers_observed, len(curve) - 1)]), 1e-3)
            late = age + state.queued_upper_seconds / speed > DOOMED_RATIO * limit
            if age > limit * self._config.age_ratio and late and state.queued > state.workers_observed:
                return state
        return None

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
