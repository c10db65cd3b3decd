"""Policy ``static``: the setting of the configuration, whatever comes. The baseline, and the fallback."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamspec.core.control import Advice, Forecast, Observation, Plan
from streamspec.policies.base import PolicyConfigBase, measured_curve


class StaticPolicyConfig(PolicyConfigBase):
    """Nothing is changed while the service runs."""

    type: Literal["static"] = Field(description="Lanes and workers stay as configured.")

    def build(self) -> StaticPolicy:
        """The policy."""
        return StaticPolicy()


class StaticPolicy:
    """Implements ``Policy``."""

    name = "static"

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """No proposal, ever."""
        work = observation.routed_work_seconds_per_second
        capacity = float(measured_curve(observation)[min(plan.workers, observation.workers_ceiling)])
        return Advice(self.name, (), Forecast(work, work, capacity))
