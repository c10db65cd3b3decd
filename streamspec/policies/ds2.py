"""Policy ``ds2``: workers from measured useful time (Kalavri et al., OSDI'18).

The true rate of one worker is what it finishes per second of useful time; workers = arrivals / true rate, over a
target utilisation. It sees rates and useful time and nothing of the content; queued work adds to the target
rate (as the Flink autoscaler's catch-up does). A number must be asked for by several decisions in a row.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from streamspec.core.control import Advice, Forecast, LaneState, Observation, Plan, Proposal
from streamspec.core.units import Seconds
from streamspec.policies.base import PolicyConfigBase, workers_step


class Ds2PolicyConfig(PolicyConfigBase):
    """Workers by arrivals and measured useful time."""

    type: Literal["ds2"] = Field(description="Workers of each lane follow arrivals times measured useful time.")
    utilisation: float = Field(
        default=0.7, gt=0, le=1, description="Share of the workers' time that shall be useful (0 to 1). Lower is safer."
    )
    activation: int = Field(
        default=2, ge=1, le=100, description="Decisions in a row that must ask for the same number (1 to 100)."
    )
    catch_up: Seconds = Field(
        default=2.0, gt=0, le=3600, description="Seconds in which what is queued shall be worked off (up to 3600)."
    )

    def build(self) -> Ds2Policy:
        """The policy."""
        return Ds2Policy(self)


class Ds2Policy:
    """Implements ``Policy``."""

    name = "ds2"

    def __init__(self, config: Ds2PolicyConfig) -> None:
        self._config = config
        self._agreeing: dict[str, tuple[int, int]] = {}
        self._seconds: dict[str, float] = {}

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """At most one step per lane."""
        proposals: list[Proposal] = []
        asked = 0.0
        for state in observation.lanes:
            lane = plan.lane(state.name)
            if lane is None:
                continue
            rate = self._work_rate(state)
            asked += rate
            workers = min(max(math.ceil(rate / self._config.utilisation), 1), observation.workers_ceiling)
            wanted, times = self._agreeing.get(state.name, (workers, 0))
            times = times + 1 if wanted == workers else 1
            self._agreeing[state.name] = (workers, times)
            if workers != lane.allocation.workers and times >= self._config.activation:
                detail = f"{rate:.2f} s of work per second at utilisation {self._config.utilisation}"
                proposals.append(workers_step(self.name, plan, lane, workers, "true_rate", detail))
        return Advice(self.name, tuple(proposals), Forecast(asked, asked))

    def _work_rate(self, state: LaneState) -> float:
        """Useful seconds per second that arrivals and catch-up ask for."""
        if state.finished_per_second > 0 and state.useful_seconds_per_second > 0:
            self._seconds[state.name] = state.useful_seconds_per_second / state.finished_per_second
        each = self._seconds.get(state.name, 0.0)
        return each * (state.arrivals_per_second + state.queued / self._config.catch_up)
