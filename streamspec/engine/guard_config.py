"""Configuration of the guard: how far, how fast and how often anything may be changed."""

from __future__ import annotations

from pydantic import Field

from streamspec.core.component import ComponentConfig
from streamspec.core.units import Bytes, BytesPerSecond, Seconds


class BoundsConfig(ComponentConfig):
    """Ranges that no knob ever leaves."""

    workers: int | None = Field(
        default=None, ge=1, le=256, description="Most workers of all lanes together (1 to 256; default: the engine's)."
    )
    batch: int = Field(default=256, ge=1, le=256, description="Largest batch (1 to 256).")
    nice_low: int = Field(default=-20, ge=-20, le=19, description="Most urgent nice level (-20 to 19).")
    nice_high: int = Field(default=19, ge=-20, le=19, description="Least urgent nice level (-20 to 19).")
    bytes_per_second: BytesPerSecond = Field(
        default=125e9, gt=0, description="Highest egress bandwidth of a lane, bytes per second."
    )
    cache_bytes: Bytes = Field(default=1 << 34, ge=0, description="Largest cache of a lane.")
    gpu_memory_bytes: Bytes = Field(default=1 << 40, ge=0, description="Most GPU memory of a lane.")
    headroom_low: float = Field(default=0.3, gt=0, le=1, description="Least headroom target (0 to 1).")


class TrustConfig(ComponentConfig):
    """When predictions are not used; the setting of the configuration (`static`) holds meanwhile."""

    expiry: Seconds = Field(
        default=30.0, gt=0, le=86_400, description="Age of a model at which it expires (up to 86400 s)."
    )
    error_ratio: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Sum of absolute errors over measured work from which on predictions are useless (0 to 100); "
        "about 0.9 is what a constant achieves.",
    )
    bias_ratio: float = Field(
        default=4.0, gt=1, le=1000, description="Factor by which predictions may be off together (1 to 1000)."
    )
    above_upper_ratio: float = Field(
        default=0.4, gt=0, le=1, description="Share of segments that may exceed their pessimistic bound (0 to 1)."
    )
    inside_ratio: float = Field(
        default=0.5, ge=0, le=1, description="Least share of arrivals like what the model has seen (0 to 1)."
    )
    unusable_ratio: float = Field(
        default=0.3, ge=0, le=1, description="Largest share of arrivals without a usable prediction (0 to 1)."
    )
    samples: int = Field(
        default=50, ge=1, description="Outcomes in a window below which errors and shares say nothing (1 and more)."
    )
    trust_after: int = Field(
        default=8,
        ge=1,
        le=10_000,
        description="Good decisions in a row before predictions are used again (1 to 10000).",
    )


class GuardConfig(ComponentConfig):
    """Every step passes these rules; what is refused is recorded with the rule."""

    bounds: BoundsConfig = Field(default=BoundsConfig(), description="Ranges of all knobs.")
    trust: TrustConfig = Field(default=TrustConfig(), description="When predictions are not used.")
    step_up_factor: float = Field(
        default=4.0, gt=1, le=256, description="Largest growth of a knob in one step, as a factor (above 1 to 256)."
    )
    step_down_ratio: float = Field(
        default=0.6, gt=0, le=1, description="Largest share that one step takes away (0 to 1)."
    )
    down_after_decisions: int = Field(
        default=4,
        ge=1,
        le=10_000,
        description="Decisions in a row that must agree on less before it is taken away (1 to 10000).",
    )
    down_after: Seconds = Field(
        default=2.0,
        ge=0,
        le=86_400,
        description="Seconds over which they must agree (0 to 86400); the largest of what they asked for is granted. "
        "Longer saves less and changes less.",
    )
    up_again_after: Seconds = Field(
        default=0.2,
        ge=0,
        le=3600,
        description="Seconds between two steps up of one knob (0 to 3600); reflexes do not wait.",
    )
    sideways_after: Seconds = Field(
        default=3.0, ge=0, le=3600, description="Seconds between steps that neither add nor take away (0 to 3600)."
    )
    learn_first: Seconds = Field(
        default=3.0, ge=0, le=3600, description="Seconds after the start in which nothing is taken away (0 to 3600)."
    )
    dead_band_ratio: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Relative change of a continuous knob below which nothing is done (0 to 1). It is wider while "
        "little has been seen.",
    )
    data_seconds: Seconds = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="Seconds of traffic after which the dead band is about its own width.",
    )
    budget_ratio: float = Field(
        default=1.0,
        gt=0,
        le=100,
        description="Share of the misses that the objective allows from which on no fewer workers than configured are "
        "left (0 to 100).",
    )
    budget_memory: Seconds = Field(
        default=60.0, ge=0, le=86_400, description="Seconds over which misses are remembered for that (0 to 86400)."
    )
    settle: Seconds = Field(
        default=0.3, ge=0, le=3600, description="Seconds after a step that are not held against it (0 to 3600)."
    )
    blacklist: Seconds = Field(
        default=20.0,
        ge=0,
        le=86_400,
        description="Seconds for which a harmful step is not repeated (0 to 86400); doubled each time, up to 32 times.",
    )
    harm_ratio: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="Loss of throughput under backlog that makes an added worker harmful (0 to 1).",
    )
