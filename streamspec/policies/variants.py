"""Policy ``variants``: one price of a byte of output, moved with utilisation.

Each segment takes the variant with the smallest ``work_seconds + bytes_out * price``. At price 0 that is the fastest
one, at a high price the smallest; in between the price walks the convex frontier of work against bytes, segment by
segment, so that overload first costs compression ratio and only then segments. The price rises while the granted
workers have time to spare within the objective, and falls when they have none. Workers are never added for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from pydantic import Field

from streamspec.core.control import Advice, Effect, Observation, Plan, Proposal, VariantState
from streamspec.policies.base import PolicyConfigBase, measured_curve
from streamspec.policies.forecast import Forecaster
from streamspec.policies.lanes import split_of
from streamspec.policies.queueing import queueing

Floats = npt.NDArray[np.float64]
SPAN = 8.0
"""The price moves from the least break-even between two variants over this to the largest times this."""


class VariantsConfig(PolicyConfigBase):
    """How fast the price moves, and how full workers may be made with it."""

    enabled: bool = Field(default=True, description="Choose variants by price; false: every stage its default variant.")
    budget: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="Share of the misses that the objective allows up to which spare time is spent on smaller output "
        "(0 to 1).",
    )
    gain: float = Field(
        default=0.5, gt=0, le=4, description="How much of the distance the price moves at a decision (0 to 4)."
    )
    most: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Highest price, CPU seconds per byte (default: as high as the variants make sense).",
    )

    def build(self) -> VariantsPolicy:
        """The policy."""
        return VariantsPolicy(self)


def choose_variants(work_seconds: Floats, bytes_out: Floats, price: float) -> npt.NDArray[np.int64]:
    """The variant of each segment: smallest ``work + bytes * price``, the cheaper in work on a tie.

    Args:
        work_seconds: shape (n, v), useful time of the chain with each variant.
        bytes_out: shape (n, v).
        price: seconds per byte, not negative.
    """
    total = work_seconds + bytes_out * price
    least = total.min(axis=1, keepdims=True)
    tied = np.where(total <= least * (1 + 1e-12), work_seconds, np.inf)
    chosen: npt.NDArray[np.int64] = np.argmin(tied, axis=1)
    return chosen


def break_even_prices(variants: Sequence[VariantState]) -> tuple[float, ...]:
    """Prices at which the mix as a whole goes from one variant of the convex frontier to the next, ascending."""
    frontier: list[VariantState] = []
    for variant in sorted(variants, key=lambda v: (v.work_seconds_per_second, v.bytes_out_per_second)):
        if frontier and variant.bytes_out_per_second >= frontier[-1].bytes_out_per_second:
            continue
        while len(frontier) > 1 and _price(frontier[-1], variant) <= _price(frontier[-2], frontier[-1]):
            frontier.pop()
        frontier.append(variant)
    return tuple(_price(one, other) for one, other in pairwise(frontier))


def _price(one: VariantState, other: VariantState) -> float:
    saved = one.bytes_out_per_second - other.bytes_out_per_second
    return (other.work_seconds_per_second - one.work_seconds_per_second) / max(saved, 1e-12)


def next_price(price: float, room: float, gain: float, low: float, high: float) -> float:
    """The price after one decision.

    Args:
        price: now, within ``low`` and ``high``.
        room: factor by which all work could grow with the objective still met (below 1: it is too much already).
        gain: exponent; falls are taken twice as fast as rises.
    """
    step = math.log(min(max(room, 1e-3), 1e3)) * gain
    span = math.log(high / low)
    step = min(max(step if step > 0 else 2.0 * step, -0.5 * span), 0.15 * span)
    return min(max(price * math.exp(step), low), high)


class VariantsPolicy:
    """Implements ``Policy``."""

    name = "variants"

    def __init__(self, config: VariantsConfig | None = None) -> None:
        self._config = config or VariantsConfig()
        self._forecasters: dict[str, Forecaster] = {}
        self._last_seconds: float | None = None

    def decide(self, observation: Observation, plan: Plan) -> Advice:
        """A new price at every decision, when there are variants."""
        prices = break_even_prices(observation.variants) if self._config.enabled else ()
        if not prices:
            return Advice(self.name)
        low, high = min(prices) / SPAN, max(prices) * SPAN
        if self._config.most is not None:
            high = max(min(high, self._config.most), low * 1.001)
        room = self._room(observation, plan)
        start = _default_price(observation.variants, prices) if plan.variant_price is None else plan.variant_price
        price = next_price(min(max(start, low), high), room, self._config.gain, low, high)
        if plan.variant_price is not None and abs(price / plan.variant_price - 1.0) < 0.02:
            return Advice(self.name)
        return Advice(self.name, (self._proposal(plan, price, room),))

    def _proposal(self, plan: Plan, price: float, room: float) -> Proposal:
        falls = plan.variant_price is not None and price < plan.variant_price
        return Proposal(
            knob="variant_price",
            lane="",
            before=plan.variant_price,
            after=price,
            direction="up" if falls else "down",
            reason="no_time_to_spare" if falls else "time_to_spare",
            detail=f"work may grow by a factor of {room:.2f} within the objective",
            expected=Effect(workers=float(plan.workers)),
            policy=self.name,
        )

    def _room(self, observation: Observation, plan: Plan) -> float:
        """Smallest growth room over the traffic classes; a late queue leaves none."""
        since_last = observation.window_seconds
        if self._last_seconds is not None:
            since_last = max(observation.now_seconds - self._last_seconds, 1e-3)
        self._last_seconds = observation.now_seconds
        room = 64.0
        for traffic in observation.traffic:
            forecaster = self._forecasters.setdefault(traffic.name, Forecaster())
            demand = forecaster.update(
                traffic.arrivals, observation.window_seconds, since_last, traffic.burst_ratio
            ).pessimistic(1.0)
            # Spare time is filled to the brim, so that a rise counts before the average has followed it.
            demand = demand.scaled_rate(max(forecaster.window_ratio, 1.0))
            lanes = [lane for lane in plan.lanes if lane.traffic == traffic.name]
            if not lanes or demand.work <= 0:
                continue
            split, limit = split_of(lanes), 0.8 * traffic.objective.latency_seconds
            room = min(room, queueing().growth_room(
                demand.rate, demand.cost, demand.square, split.cut_array, split.worker_array, len(split.workers),
                measured_curve(observation), observation.usable_cores, limit, demand.dispersion,
                self._config.budget * traffic.objective.miss_budget_ratio,
            ))  # fmt: skip
            queued = sum(state.queued_work_seconds for state in observation.lanes if state.traffic == traffic.name)
            drain = queued / max(float(measured_curve(observation)[split.total]), 1e-3)
            if drain > 0.5 * limit:
                room = min(room, 0.5 * limit / drain)
        return room


def _default_price(variants: Sequence[VariantState], prices: Sequence[float]) -> float:
    """A price at which the mix as a whole takes about its default variant."""
    ordered = sorted(variants, key=lambda variant: variant.work_seconds_per_second)
    place = next((place for place, variant in enumerate(ordered) if variant.default), 0)
    below = prices[min(max(place - 1, 0), len(prices) - 1)]
    above = prices[min(place, len(prices) - 1)]
    return math.sqrt(below * above)
