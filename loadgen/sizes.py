"""Sizes of messages: distributions, and the sizes that a pool holds of each.

A pool takes its sizes at evenly spaced quantiles instead of drawing them, so that the mean of a pool is
that of the distribution whatever the seed, and rates in bytes are met.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from loadgen.quantities import Bytes

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_NORMAL = NormalDist()


class _Size(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    min: Bytes = Field(default=64, ge=1, le=1 << 20, description="Smallest message in bytes; smaller draws become it.")
    max: Bytes = Field(default=1400, ge=1, le=1 << 20, description="Largest message in bytes; larger draws become it.")

    @model_validator(mode="after")
    def _ordered(self) -> _Size:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is larger than max ({self.max})")
        return self

    def at_quantiles(self, quantiles: Floats, median_bytes: int, sigma: float) -> Floats:
        """Sizes at ``quantiles`` (0 to 1), before they are cut to ``min`` and ``max``."""
        raise NotImplementedError

    def pool_sizes(self, count: int, median_bytes: int, sigma: float) -> Integers:
        """``count`` sizes in ascending order, at the middles of ``count`` equal slices of probability."""
        quantiles = (np.arange(count) + 0.5) / count
        sizes = self.at_quantiles(quantiles, median_bytes, sigma)
        return np.clip(np.rint(sizes), self.min, self.max).astype(np.int64)


class NaturalSize(_Size):
    """What the kind of traffic itself has: log-normal with the kind's median and deviation."""

    distribution: Literal["natural"] = Field(default="natural", description="Sizes that the kind has in practice.")

    def at_quantiles(self, quantiles: Floats, median_bytes: int, sigma: float) -> Floats:
        """See the base."""
        return _lognormal(quantiles, median_bytes, sigma)


class FixedSize(_Size):
    """All messages of one size."""

    distribution: Literal["fixed"] = Field(description="One size.")
    bytes: Bytes = Field(ge=1, le=1 << 20, description="Size in bytes; min and max do not apply.")

    def pool_sizes(self, count: int, median_bytes: int, sigma: float) -> Integers:
        """See the base."""
        return np.full(count, self.bytes, dtype=np.int64)


class UniformSize(_Size):
    """Every size between min and max equally often."""

    distribution: Literal["uniform"] = Field(description="From min to max.")

    def at_quantiles(self, quantiles: Floats, median_bytes: int, sigma: float) -> Floats:
        """See the base."""
        return self.min + quantiles * (self.max - self.min)


class LognormalSize(_Size):
    """Log-normal, the usual shape of messages and files of one kind."""

    distribution: Literal["lognormal"] = Field(description="Log-normal.")
    median: Bytes = Field(ge=1, le=1 << 20, description="Half of the messages are smaller, in bytes.")
    sigma: float = Field(default=0.7, ge=0, le=4, description="Standard deviation of the natural logarithm.")

    def at_quantiles(self, quantiles: Floats, median_bytes: int, sigma: float) -> Floats:
        """See the base."""
        return _lognormal(quantiles, self.median, self.sigma)


class ParetoSize(_Size):
    """Pareto with scale ``min``: many small ones, few that carry most of the bytes."""

    distribution: Literal["pareto"] = Field(description="Pareto, from min up.")
    alpha: float = Field(default=1.3, gt=0.3, le=10, description="Shape; nearer to 1 is heavier in the tail.")

    def at_quantiles(self, quantiles: Floats, median_bytes: int, sigma: float) -> Floats:
        """See the base."""
        return self.min * np.power(1 - quantiles, -1 / self.alpha)


class EmpiricalSize(_Size):
    """A measured histogram: each size as often as its weight says."""

    distribution: Literal["empirical"] = Field(description="Sizes with weights.")
    weights: dict[int, float] = Field(min_length=1, max_length=4096, description="Size in bytes to weight.")

    @model_validator(mode="after")
    def _usable(self) -> EmpiricalSize:
        if min(self.weights) < 1 or min(self.weights.values()) < 0 or not sum(self.weights.values()) > 0:
            raise ValueError("sizes must be at least 1 and weights at least 0, with a sum above 0")
        return self

    def at_quantiles(self, quantiles: Floats, median_bytes: int, sigma: float) -> Floats:
        """See the base."""
        sizes = np.array(sorted(self.weights), dtype=np.float64)
        shares = np.cumsum([self.weights[int(size)] for size in sizes])
        found = np.searchsorted(shares / shares[-1], quantiles, side="right")
        return sizes[np.minimum(found, len(sizes) - 1)]


def _lognormal(quantiles: Floats, median: float, sigma: float) -> Floats:
    scores = np.array([_NORMAL.inv_cdf(float(quantile)) for quantile in quantiles])
    return median * np.exp(sigma * scores)


Size = Annotated[
    NaturalSize | FixedSize | UniformSize | LognormalSize | ParetoSize | EmpiricalSize,
    Field(discriminator="distribution"),
]
