"""Which static setting was the best, once all is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Setting = TypeVar("Setting")

AS_GOOD_RATIO = 0.005
"""Settings that miss so little more than the best are as good."""


def best_static(
    settings: Sequence[Setting], miss_ratio: Callable[[Setting], float], cost: Callable[[Setting], Any]
) -> Setting:
    """Least misses within half a point, then the least cost."""
    least = min(map(miss_ratio, settings))
    return min((one for one in settings if miss_ratio(one) <= least + AS_GOOD_RATIO), key=cost)
