"""The union of all main policies: one import and one line each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamspec.policies.aimd import AimdPolicyConfig
from streamspec.policies.ds2 import Ds2PolicyConfig
from streamspec.policies.gradient import GradientPolicyConfig
from streamspec.policies.planner import PlannerPolicyConfig
from streamspec.policies.static import StaticPolicyConfig

PolicyConfig = Annotated[
    AimdPolicyConfig | Ds2PolicyConfig | GradientPolicyConfig | PlannerPolicyConfig | StaticPolicyConfig,
    Field(discriminator="type"),
]

POLICIES: dict[
    str, type[AimdPolicyConfig | Ds2PolicyConfig | GradientPolicyConfig | PlannerPolicyConfig | StaticPolicyConfig]
] = {
    "aimd": AimdPolicyConfig,
    "ds2": Ds2PolicyConfig,
    "gradient": GradientPolicyConfig,
    "planner": PlannerPolicyConfig,
    "static": StaticPolicyConfig,
}
"""By the name that a configuration and ``streamspec replay --policy`` use."""
