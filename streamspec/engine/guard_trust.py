"""Whether predictions may be used: distance to the data, expiry, measured error. In at once, out slowly."""

from __future__ import annotations

import math

from streamspec.core.control import ModelHealth
from streamspec.engine.guard_config import TrustConfig


def distrust(model: ModelHealth, config: TrustConfig) -> str:
    """Why predictions may not be used now; empty when they may."""
    if not model.trusted:
        return "the model does not trust itself"
    if not model.age_seconds <= config.expiry:
        return f"the model has expired: {model.age_seconds:.0f} s old"
    if not model.unusable_ratio <= config.unusable_ratio:
        return f"no usable prediction for {model.unusable_ratio:.0%} of arrivals"
    if not model.inside_ratio >= config.inside_ratio:
        return f"only {model.inside_ratio:.0%} of arrivals are like what the model has seen"
    if model.samples < config.samples:
        return ""
    return _measured(model, config)


def _measured(model: ModelHealth, config: TrustConfig) -> str:
    bias = model.bias_ratio
    if not (math.isfinite(bias) and 1.0 / config.bias_ratio <= bias <= config.bias_ratio):
        return f"measured work is {bias:.2f} times what was predicted"
    # What is left when the common factor is taken out is what lanes depend on.
    error = model.error_ratio if bias >= 1.0 else model.error_ratio * bias
    if not error <= config.error_ratio:
        return f"errors are {error:.2f} of the work"
    if not model.above_upper_ratio <= config.above_upper_ratio:
        return f"{model.above_upper_ratio:.0%} of segments exceed their pessimistic bound"
    # What changed is being learned again: less is tolerated meanwhile, but the change alone decides nothing.
    if model.drift and not model.above_upper_ratio <= config.above_upper_ratio / 2:
        return f"drift was detected, and {model.above_upper_ratio:.0%} of segments exceed their pessimistic bound"
    return ""


class Trust:
    """Remembers whether the fallback holds."""

    def __init__(self, config: TrustConfig) -> None:
        self._config = config
        self._good = 0
        self.fallback = ""

    def update(self, model: ModelHealth) -> str:
        """Why predictions are not used now; empty when they are."""
        why = distrust(model, self._config)
        if why:
            self._good, self.fallback = 0, why
        elif self.fallback:
            self._good += 1
            if self._good >= self._config.trust_after:
                self.fallback = ""
        return self.fallback
