"""The section ``control`` of a configuration: who decides, how often, and within what."""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from streamspec.core.component import ComponentConfig
from streamspec.core.control import Mode, Plan, Policy
from streamspec.core.units import BytesPerSecond, Seconds
from streamspec.engine.cycle import Cycle
from streamspec.engine.guard import Guard
from streamspec.engine.guard_config import GuardConfig
from streamspec.policies.cache import CachePolicyConfig
from streamspec.policies.planner import PlannerPolicyConfig
from streamspec.policies.reflex import ReflexConfig
from streamspec.policies.registry import PolicyConfig
from streamspec.policies.static import StaticPolicyConfig
from streamspec.policies.tuner import TunerConfig
from streamspec.policies.variants import VariantsConfig


class EgressConfig(ComponentConfig):
    """Egress bandwidth, shared out among lanes."""

    interface: str = Field(min_length=1, max_length=15, description="Network interface on which results leave.")
    bytes_per_second: BytesPerSecond = Field(
        gt=0, description="What the link carries, in bytes per second, e.g. `12.5 MB/s`."
    )


class ControlConfig(ComponentConfig):
    """How the service tunes itself."""

    mode: Mode | None = Field(
        default=None,
        description="`auto`: decide and do; `recommend`: decide and record, change nothing; `off`: neither. Unset: "
        "`auto`, but `off` where `lanes` are written by hand.",
    )
    policy: PolicyConfig = Field(
        default=PlannerPolicyConfig(), description="Who proposes lanes and workers.", validate_default=False
    )
    period: Seconds = Field(
        default=0.25,
        ge=0.05,
        le=60,
        description="Seconds between two decisions (0.05 to 60). Shorter reacts sooner and costs more.",
    )
    glance: Seconds = Field(
        default=0.05, ge=0.01, le=10, description="Seconds between two looks of the reflexes (0.01 to 10)."
    )
    window: Seconds = Field(
        default=1.0,
        ge=0.1,
        le=60,
        description="Seconds that rates are taken over (0.1 to 60). Longer is steadier and later.",
    )
    reflex: ReflexConfig = Field(default=ReflexConfig(), description="What happens at once, with nothing learned.")
    variants: VariantsConfig = Field(default=VariantsConfig(), description="Variants of stages by price.")
    tuner: TunerConfig = Field(default=TunerConfig(), description="Targets found by trying.")
    cache: CachePolicyConfig = Field(default=CachePolicyConfig(), description="Sizes of caches by their hit rate.")
    guard: GuardConfig = Field(default=GuardConfig(), description="What every step must pass.")
    egress: EgressConfig | None = Field(
        default=None,
        description="Interface whose bandwidth is shared out among `lanes`, for sinks of type `udp` and `tcp` without "
        "a limit of their own; unset: it is not shared out.",
    )
    cache_ways: bool = Field(
        default=False,
        description="Give lanes parts of the last-level cache of their own, in proportion to their workers, so that "
        "heavy ones do not push out what light ones need. Needs resctrl.",
    )

    def policies(self) -> tuple[Policy, ...]:
        """The policies of a decision, the main one first. ``static`` stands alone."""
        main = self.policy.build()
        if isinstance(self.policy, StaticPolicyConfig):
            return (main,)
        return (main, self.variants.build(), self.tuner.build(), self.cache.build())

    def build(self, plan: Plan, mode: Mode) -> Cycle:
        """The control cycle of a service that starts with ``plan``, the setting that its configuration amounts to;
        it is also what holds while predictions may not be used."""
        if isinstance(self.policy, PlannerPolicyConfig) and "headroom" not in plan.targets:
            plan = replace(plan, targets={**plan.targets, "headroom": self.policy.headroom})
        reflexes = () if isinstance(self.policy, StaticPolicyConfig) else (self.reflex.build(),)
        return Cycle(mode, self.policies(), Guard(self.guard, plan), plan, reflexes=reflexes)
