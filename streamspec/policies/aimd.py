"""Policy ``aimd``: more workers by a factor when latency nears the objective, one less while there is slack.

The reactive baseline (PARTIES, ASPLOS'19: slack decides; the asymmetry is that of Chiu and Jain, 1989, turned
round, because here the safe direction is up). It sees latency per lane and nothing of the content.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from streamspec.core.control import Advice, Observation, Plan, Proposal
from streamspec.policies.base import PolicyConfigBase, known, workers_step


class AimdPolicyConfig(PolicyConfigBase):
    """Workers by measured latency: up by a factor, down by one."""

    type: Literal["aimd"] = Field(description="Workers of each lane follow its measured latency.")
    factor: float = Field(
        default=2.0,
        gt=1,
        le=8,
        description="Workers are multiplied by this when latency nears the objective (above 1 to 8).",
    )
    up_ratio: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="Share of the objective's latency from which on workers are added (0 to 1). Lower reacts earlier.",
    )
    down_ratio: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Share of the objective's latency below which one worker is taken away (0 to below 1). Higher "
        "saves more and misses more.",
    )

    def build(self) -> AimdPolicy:
        """The policy."""
        return AimdPolicy(self)


class AimdPolicy:
    """Implements ``Policy``."""

    name = "aimd"

    def __init__(self, config: AimdPolicyConfig) -> None:
        self._config = config

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """At most one step per lane."""
        proposals: list[Proposal] = []
        for state in observation.lanes:
            lane = plan.lane(state.name)
            if lane is None:
                continue
            objective = next(
                (t.objective for t in observation.traffic if t.name == lane.traffic), observation.objective
            )
            latency = max(known(state.latency_p99_seconds, 0.0), state.oldest_age_seconds)
            share, workers = latency / objective.latency_seconds, lane.allocation.workers
            detail = f"p99 is {share:.2f} of the objective"
            if share > self._config.up_ratio:
                more = min(math.ceil(workers * self._config.factor), observation.workers_ceiling)
                if more > workers:
                    proposals.append(workers_step(self.name, plan, lane, more, "latency_near_objective", detail))
            elif share < self._config.down_ratio and workers > 1:
                proposals.append(workers_step(self.name, plan, lane, workers - 1, "latency_slack", detail))
        return Advice(self.name, tuple(proposals))
