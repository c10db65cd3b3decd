"""Arrival processes. Each bends time: a process of constant mean rate is laid out in *operational* seconds,
and a warp turns those into real seconds such that rate at real time t is the mean rate times the slope.

    constant    evenly spaced
    poisson     independent, exponential gaps
    bursts      Poisson while on, a trickle while off (interrupted or Markov-modulated Poisson process)
    diurnal     Poisson whose rate follows a sine

This is the inversion method for non-homogeneous Poisson processes (Çinlar 1975). The mean rate over many
bursts or whole periods is the rate that the scenario asks for.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loadgen.quantities import Seconds

Floats = npt.NDArray[np.float64]


class Warp(Protocol):
    """Turns ascending operational seconds into real ones; called block by block, in order."""

    def __call__(self, operational_seconds: Floats) -> Floats: ...


class _Arrivals(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    random_gaps: ClassVar[bool] = True
    """Whether operational time is a Poisson process, or evenly spaced."""

    def warp(self, rng: np.random.Generator, phase_seconds: float) -> Warp:
        """The warp of one phase."""
        return _straight


class ConstantArrivals(_Arrivals):
    """Evenly spaced; with a rate in bytes, each gap is as long as the message before takes at that rate."""

    random_gaps: ClassVar[bool] = False

    process: Literal["constant"] = Field(description="Evenly spaced.")


class PoissonArrivals(_Arrivals):
    """Independent arrivals."""

    process: Literal["poisson"] = Field(description="Exponential gaps.")


class BurstArrivals(_Arrivals):
    """Bursts: on and off periods of random (exponential) or fixed length."""

    process: Literal["bursts"] = Field(description="On and off.")
    on_seconds: Seconds = Field(default=0.2, gt=0, le=3600, description="Mean length of a burst in seconds.")
    off_seconds: Seconds = Field(default=0.8, gt=0, le=3600, description="Mean pause between bursts in seconds.")
    off_share: float = Field(
        default=0.0, ge=0, lt=1, description="Rate in pauses as a share of the rate in bursts (0: silence)."
    )
    fixed: bool = Field(default=False, description="All bursts and pauses of the mean length instead of exponential.")

    def warp(self, rng: np.random.Generator, phase_seconds: float) -> Warp:
        """See the base."""
        return _BurstWarp(self, rng)


class DiurnalArrivals(_Arrivals):
    """A day, shortened: the rate swings around its mean as a sine, from the trough at the start."""

    process: Literal["diurnal"] = Field(description="Sine.")
    period_seconds: Seconds | None = Field(
        default=None, gt=0, le=86400 * 366, description="Length of a day in seconds; unset: one day per phase."
    )
    amplitude: float = Field(
        default=0.8, ge=0, lt=1, description="Swing as a share of the mean: 0.8 goes from 0.2 to 1.8 times the rate."
    )

    def warp(self, rng: np.random.Generator, phase_seconds: float) -> Warp:
        """See the base."""
        return _SineWarp(self.period_seconds or phase_seconds, self.amplitude)


def _straight(operational_seconds: Floats) -> Floats:
    return operational_seconds


class _BurstWarp:
    """Piecewise linear: break points are made as far ahead as they are needed and forgotten behind."""

    def __init__(self, config: BurstArrivals, rng: np.random.Generator) -> None:
        self._config = config
        self._rng = rng
        mean = (config.on_seconds + config.off_share * config.off_seconds) / (config.on_seconds + config.off_seconds)
        self._slopes = np.array([1 / mean, config.off_share / mean])
        self._real = np.zeros(1)
        self._operational = np.zeros(1)

    def __call__(self, operational_seconds: Floats) -> Floats:
        while self._operational[-1] <= operational_seconds[-1]:
            self._extend()
        real: Floats = np.interp(operational_seconds, self._operational, self._real)
        passed = max(0, int(np.searchsorted(self._operational, operational_seconds[-1])) - 1)
        self._real, self._operational = self._real[passed:], self._operational[passed:]
        return real

    def _extend(self, cycles: int = 64) -> None:
        means = np.tile([self._config.on_seconds, self._config.off_seconds], cycles)
        lengths = means if self._config.fixed else means * self._rng.standard_exponential(len(means))
        grown = lengths * np.tile(self._slopes, cycles)
        self._real = np.concatenate([self._real, self._real[-1] + np.cumsum(lengths)])
        self._operational = np.concatenate([self._operational, self._operational[-1] + np.cumsum(grown)])


class _SineWarp:
    """Rate 1 - a cos(2 pi t / P), so operational time is t - a P / (2 pi) sin(2 pi t / P): inverted by a table."""

    def __init__(self, period_seconds: float, amplitude: float, cells: int = 8192) -> None:
        self._period = period_seconds
        turn = np.linspace(0, 1, cells + 1)
        self._real = turn * period_seconds
        self._operational = period_seconds * (turn - amplitude * np.sin(2 * np.pi * turn) / (2 * np.pi))

    def __call__(self, operational_seconds: Floats) -> Floats:
        periods, rest = np.divmod(operational_seconds, self._period)
        real: Floats = periods * self._period + np.interp(rest, self._operational, self._real)
        return real


def _named(value: Any) -> Any:
    return {"process": value} if isinstance(value, str) else value


_AnyArrivals = Annotated[
    ConstantArrivals | PoissonArrivals | BurstArrivals | DiurnalArrivals, Field(discriminator="process")
]
Arrivals = Annotated[_AnyArrivals, BeforeValidator(_named)]
"""A process by name (``arrivals: poisson``), or with its parameters (``arrivals: {process: bursts, ...}``)."""
