"""Policy ``gradient``: workers as a concurrency limit that follows the gradient of latency.

``gradient = clamp(tolerance * long / short, 0.5, 1)``, ``limit = limit * gradient + queue``, smoothed: Gradient2 of
Netflix' concurrency-limits, with its rules that a limit that is not half used does not grow and that a long-term
latency far above the short-term one decays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from streamspec.core.control import Advice, LaneState, Observation, Plan, Proposal
from streamspec.policies.base import PolicyConfigBase, workers_step


class GradientPolicyConfig(PolicyConfigBase):
    """Workers by the ratio of long-term to present latency."""

    type: Literal["gradient"] = Field(description="Workers of each lane follow the gradient of its latency.")
    tolerance: float = Field(
        default=1.5, ge=1, le=10, description="Rise of latency that is accepted before workers are cut (1 to 10)."
    )
    smoothing: float = Field(default=0.2, gt=0, le=1, description="Share of each step that is taken (0 to 1).")
    queue: float = Field(
        default=1.0, gt=0, le=16, description="Workers added each step while latency allows (0 to 16)."
    )
    long_decisions: int = Field(
        default=60, ge=2, le=100_000, description="Decisions that the long-term latency averages over (2 to 100000)."
    )

    def build(self) -> GradientPolicy:
        """The policy."""
        return GradientPolicy(self)


@dataclass
class _Limit:
    limit: float
    long_seconds: float = 0.0
    samples: int = 0


class GradientPolicy:
    """Implements ``Policy``."""

    name = "gradient"

    def __init__(self, config: GradientPolicyConfig) -> None:
        self._config = config
        self._limits: dict[str, _Limit] = {}

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """At most one step per lane."""
        proposals: list[Proposal] = []
        for state in observation.lanes:
            lane = plan.lane(state.name)
            if lane is None or state.latency_p50_seconds is None:
                continue
            own = self._limits.setdefault(state.name, _Limit(float(lane.allocation.workers)))
            self._update(own, state, observation.workers_ceiling)
            workers = min(max(math.ceil(own.limit - 0.5), 1), observation.workers_ceiling)
            if workers != lane.allocation.workers:
                reason = "latency_flat" if workers > lane.allocation.workers else "latency_rises"
                detail = f"limit {own.limit:.2f}, long-term latency {own.long_seconds * 1e3:.2f} ms"
                proposals.append(workers_step(self.name, plan, lane, workers, reason, detail))
        return Advice(self.name, tuple(proposals))

    def _update(self, own: _Limit, state: LaneState, ceiling: int) -> None:
        short = max(state.latency_p50_seconds or 0.0, 1e-9)
        own.samples += 1
        weight = 1.0 / min(own.samples, self._config.long_decisions)
        own.long_seconds += weight * (short - own.long_seconds)
        if own.long_seconds > 2.0 * short:
            own.long_seconds *= 0.95
        if state.in_flight + state.queued < own.limit / 2:
            return
        gradient = min(max(self._config.tolerance * own.long_seconds / short, 0.5), 1.0)
        wanted = own.limit * gradient + self._config.queue
        own.limit += self._config.smoothing * (wanted - own.limit)
        own.limit = min(max(own.limit, 1.0), float(ceiling))
