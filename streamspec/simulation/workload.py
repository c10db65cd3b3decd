"""What the simulated plant works on: arrivals with true and predicted cost, and the shapes of load."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Workload:
    """Segments in order of arrival; n segments, v variants of the one variable stage.

    Attributes:
        arrival_ns: shape (n,), ascending, from 0.
        key: shape (n,), any integers; order is kept per key.
        length: payload bytes, shape (n,).
        traffic: index of the traffic class, shape (n,).
        work_ns: true useful time of the chain with each variant, shape (n, v).
        ratio: true bytes out per byte in with each variant, shape (n, v).
        predicted_ns, predicted_ratio: the same as predicted.
        upper_ns: pessimistic bound for the default variant, shape (n,).
        inside: features lie within what the model has seen, shape (n,), bool.
        usable: a prediction exists, shape (n,), bool.
        default_variant: of the stage.
        shift_ns: times at which the load or its content truly changes.
    """

    arrival_ns: Floats
    key: npt.NDArray[np.int64]
    length: Floats
    traffic: Ids
    work_ns: Floats
    ratio: Floats
    predicted_ns: Floats
    predicted_ratio: Floats
    upper_ns: Floats
    inside: npt.NDArray[np.bool_]
    usable: npt.NDArray[np.bool_]
    default_variant: int = 0
    shift_ns: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_ns)

    @property
    def seconds(self) -> float:
        """From 0 to the last arrival."""
        return float(self.arrival_ns[-1]) / 1e9 if len(self) else 0.0

    def predicted_with(self, predicted_ns: Floats, upper_ns: Floats | None = None, **others: Any) -> Workload:
        """The same arrivals under another model."""
        bound = predicted_ns[:, self.default_variant] * 1.5 if upper_ns is None else upper_ns
        return replace(self, predicted_ns=predicted_ns, upper_ns=bound, **others)


def build_workload(
    arrival_ns: npt.ArrayLike,
    work_ns: npt.ArrayLike,
    *,
    key: npt.ArrayLike | None = None,
    length: npt.ArrayLike = 16_384.0,
    ratio: npt.ArrayLike = 0.5,
    traffic: npt.ArrayLike = 0,
    default_variant: int = 0,
    shift_seconds: tuple[float, ...] = (),
) -> Workload:
    """A workload whose predictions are exact; scalars stand for every segment."""
    arrival = np.asarray(arrival_ns, dtype=np.float64)
    work = np.asarray(work_ns, dtype=np.float64)
    work = np.ascontiguousarray(work.reshape(len(arrival), -1))
    count, variants = work.shape
    ratios = np.array(np.broadcast_to(np.asarray(ratio, dtype=np.float64), (count, variants)))
    return Workload(
        arrival_ns=arrival,
        key=np.arange(count) if key is None else np.asarray(key, dtype=np.int64),
        length=np.array(np.broadcast_to(np.asarray(length, dtype=np.float64), (count,))),
        traffic=np.array(np.broadcast_to(np.asarray(traffic, dtype=np.int32), (count,))),
        work_ns=work,
        ratio=ratios,
        predicted_ns=work.copy(),
        predicted_ratio=ratios.copy(),
        upper_ns=work[:, default_variant].copy(),
        inside=np.ones(count, dtype=np.bool_),
        usable=np.ones(count, dtype=np.bool_),
        default_variant=default_variant,
        shift_ns=tuple(second * 1e9 for second in shift_seconds),
    )


def with_error(workload: Workload, rng: np.random.Generator, sigma: float = 0.25) -> Workload:
    """Predictions with a lognormal error of the given sigma (0.25: sum of errors is about 0.2 of the work), the
    same for all variants of a segment, and the bound that nine in ten stay below."""
    error = np.exp(rng.normal(0.0, sigma, (len(workload), 1)))
    predicted = workload.work_ns * error
    upper = predicted[:, workload.default_variant] * np.exp(1.2816 * sigma)
    return workload.predicted_with(predicted, upper)


def arrivals(rng: np.random.Generator, times: Floats, per_second: Floats) -> Floats:
    """Poisson arrivals in nanoseconds; the rate is ``per_second[i]`` from ``times[i]`` to ``times[i + 1]`` (seconds,
    one entry more than the rates)."""
    spans = np.diff(times)
    counts = rng.poisson(per_second * spans)
    starts = np.repeat(times[:-1], counts)
    return np.sort(starts + rng.random(int(counts.sum())) * np.repeat(spans, counts)) * 1e9


@dataclass(frozen=True)
class Mix:
    """Kinds of content: shares of the segments, and of each kind the mean work (seconds) and its spread (sigma of
    the logarithm)."""

    share: tuple[float, ...] = (0.90, 0.08, 0.02)
    seconds: tuple[float, ...] = (0.4e-3, 2.0e-3, 12.0e-3)
    sigma: float = 0.35

    @property
    def mean_seconds(self) -> float:
        """Mean work of a segment."""
        total = sum(s * m for s, m in zip(self.share, self.seconds, strict=True))
        return float(total / sum(self.share))

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Work of ``count`` segments, nanoseconds."""
        share = np.asarray(self.share) / sum(self.share)
        kind = rng.choice(len(share), size=count, p=share)
        spread = np.exp(rng.normal(-(self.sigma**2) / 2, self.sigma, count))
        return np.asarray(self.seconds)[kind] * spread * 1e9


LIGHT_MIX = Mix(share=(0.97, 0.025, 0.005), seconds=(0.3e-3, 1.5e-3, 10e-3))
HEAVY_MIX = Mix(share=(0.75, 0.19, 0.06), seconds=(0.4e-3, 2.0e-3, 12e-3))
"""At the same rate of segments (and bytes) about 3.7 times the work of the light one."""


def load_shape(
    name: str, rng: np.random.Generator, *, seconds: float = 60.0, level: float = 1.0, mix: Mix | None = None
) -> tuple[Floats, Floats, tuple[float, ...]]:
    """Arrivals (ns), work (ns) and the seconds of true shifts of a named shape.

    ``level`` is the mean load in cores' worth of work. Shapes: ``steady``; ``diurnal``: a sine from 0.15 to 1.85
    times the mean in a day of half the duration; ``bursts``: 0.6 of the level, and every 10 s for 1.5 s three times it;
    ``content_shift``: the same rate of segments throughout, in the middle third of heavier content.
    """
    mix = mix or Mix()
    times = np.linspace(0.0, seconds, max(int(seconds * 10), 1) + 1)
    middle = (times[:-1] + times[1:]) / 2
    rate = np.full(len(middle), level / mix.mean_seconds)
    if name == "diurnal":
        rate *= 1.0 - 0.85 * np.cos(4.0 * np.pi * middle / seconds)
        shifts = tuple(seconds * share for share in (0.125, 0.375, 0.625, 0.875))
    elif name == "bursts":
        inside = (middle % 10.0) < 1.5
        rate *= np.where(inside & (middle > 5.0), 3.0, 0.6)
        shifts = tuple(np.arange(10.0, seconds, 10.0)) + tuple(np.arange(11.5, seconds, 10.0))
    elif name == "content_shift":
        return _content_shift(rng, seconds, level)
    elif name == "steady":
        shifts = ()
    else:
        raise KeyError(name)
    arrival = arrivals(rng, times, rate)
    return arrival, mix.draw(rng, len(arrival)), tuple(sorted(shifts))


def _content_shift(rng: np.random.Generator, seconds: float, level: float) -> tuple[Floats, Floats, tuple[float, ...]]:
    mean = (2 * LIGHT_MIX.mean_seconds + HEAVY_MIX.mean_seconds) / 3
    times = np.linspace(0.0, seconds, 2)
    arrival = arrivals(rng, times, np.array([level / mean]))
    heavy = (arrival > seconds / 3 * 1e9) & (arrival < seconds * 2 / 3 * 1e9)
    work = np.where(heavy, HEAVY_MIX.draw(rng, len(arrival)), LIGHT_MIX.draw(rng, len(arrival)))
    return arrival, work, (seconds / 3, seconds * 2 / 3)


SHAPES = ("steady", "diurnal", "bursts", "content_shift")
