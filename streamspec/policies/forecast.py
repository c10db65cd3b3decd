"""What arrives, by predicted cost: a slow average that jumps when the present window contradicts it.

Costs of a bin are what was measured of its segments, starting from what was predicted of them; so a biased model
is corrected bin by bin, and a bin whose segments lie (cheap by prediction, dear in truth) shows its true cost and
spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from streamspec.core.control import COST_BIN_MIDDLES_NS, COST_BINS, CostHistogram

Floats = npt.NDArray[np.float64]

SLOW_SECONDS = 8.0
COST_SECONDS = 15.0
SHIFT_SIGMAS = 3.5
SHIFT_RATIO = 0.15
PRIOR_SEGMENTS = 8.0
_MIDDLES = np.asarray(COST_BIN_MIDDLES_NS) / 1e9


@dataclass(frozen=True)
class Demand:
    """Arrivals that a plan has to carry; arrays by bin of predicted cost.

    Attributes:
        rate: segments per second.
        cost: seconds of work of a segment; ``square``: mean of its square.
        sigma_ratio: standard error of the total work rate over it.
        dispersion: unevenness of arrivals (1: Poisson).
        settled_seconds: how long the average has held without a jump.
    """

    rate: Floats
    cost: Floats
    square: Floats
    sigma_ratio: float
    dispersion: float
    settled_seconds: float

    @property
    def work(self) -> float:
        """Seconds of work per second."""
        return float(self.rate @ self.cost)

    @property
    def per_second(self) -> float:
        """Segments per second."""
        return float(self.rate.sum())

    def pessimistic(self, sigmas: float) -> Demand:
        """As much more as the uncertainty of the average allows."""
        return self.scaled_rate(1.0 + sigmas * self.sigma_ratio)

    def scaled_rate(self, factor: float) -> Demand:
        """That many times as many segments."""
        return replace(self, rate=self.rate * factor)

    def with_backlog(self, work_seconds: float, within_seconds: float) -> Demand:
        """Plus what must be worked off within that time, as if it arrived evenly."""
        if work_seconds <= 0.0 or self.work <= 0.0:
            return self
        return self.scaled_rate(1.0 + work_seconds / within_seconds / self.work)

    def scaled_cost(self, factor: float) -> Demand:
        """With every segment dearer by that factor (the default variant instead of those chosen)."""
        return self if factor == 1.0 else replace(self, cost=self.cost * factor, square=self.square * factor**2)


@dataclass
class Forecaster:
    """Remembers one traffic class."""

    rate: Floats = field(default_factory=lambda: np.zeros(COST_BINS))
    settled_seconds: float = 0.0
    shifted: bool = False
    """The last update jumped."""
    window_ratio: float = 1.0
    """Work of the last window over that of the average."""
    _started: bool = False
    _count: Floats = field(default_factory=lambda: np.zeros(COST_BINS))
    _sum: Floats = field(default_factory=lambda: np.zeros(COST_BINS))
    _squares: Floats = field(default_factory=lambda: np.zeros(COST_BINS))
    _predicted: Floats = field(default_factory=_MIDDLES.copy)
    _excess: float = 1.0
    _dispersion: float = 1.0

    def update(
        self, arrivals: CostHistogram, window_seconds: float, since_last_seconds: float, burst_ratio: float
    ) -> Demand:
        """Take in a window that ends now; windows may overlap."""
        rate = _by_bin(arrivals.per_second)
        work = _by_bin(arrivals.work_seconds_per_second)
        here = rate > 0
        self._predicted = np.where(here, work / np.maximum(rate, 1e-12), self._predicted)
        self._learn_costs(arrivals, since_last_seconds)
        cost, square = self._costs()
        self._average(rate, cost, square, window_seconds, since_last_seconds)
        average = float(self.rate @ cost)
        self.window_ratio = float(rate @ cost) / average if average > 0 else 1.0
        self._spread(burst_ratio, square, window_seconds, since_last_seconds)
        return Demand(
            self.rate,
            cost,
            square,
            self._sigma_ratio(cost, square, window_seconds),
            self._dispersion,
            self.settled_seconds,
        )

    def _learn_costs(self, arrivals: CostHistogram, since_last: float) -> None:
        kept = math.exp(-since_last / COST_SECONDS)
        finished = _by_bin(arrivals.finished_per_second) * since_last
        self._count = self._count * kept + finished
        self._sum = self._sum * kept + _by_bin(arrivals.measured_seconds_per_second) * since_last
        self._squares = self._squares * kept + _by_bin(arrivals.measured_squares_per_second) * since_last

    def _costs(self) -> tuple[Floats, Floats]:
        count = self._count + PRIOR_SEGMENTS
        # An unknown bin is as far off as the known ones are together.
        total = float(self._count @ self._predicted)
        bias = min(max(float(self._sum.sum()) / total, 0.2), 5.0) if total > 0 and self._count.sum() > 20 else 1.0
        prior = self._predicted * bias
        cost = (self._sum + PRIOR_SEGMENTS * prior) / count
        square = (self._squares + PRIOR_SEGMENTS * prior**2) / count
        return cost, np.maximum(square, cost**2)

    def _average(self, rate: Floats, cost: Floats, square: Floats, window: float, since_last: float) -> None:
        self.shifted = False
        if not self._started:
            self._started, self.rate, self.settled_seconds = True, rate.copy(), window
            return
        self.settled_seconds += since_last
        now, before = float(rate @ cost), float(self.rate @ cost)
        sigma = math.sqrt(max(float(self.rate @ square), float(rate @ square)) * self._dispersion / window)
        if abs(now - before) > max(SHIFT_SIGMAS * sigma, SHIFT_RATIO * before):
            self.shifted, self.rate, self.settled_seconds = True, rate.copy(), window
            return
        weight = max(since_last / SLOW_SECONDS, since_last / max(self.settled_seconds, since_last))
        self.rate = self.rate + min(weight, 1.0) * (rate - self.rate)

    def _sigma_ratio(self, cost: Floats, square: Floats, window: float) -> float:
        work = float(self.rate @ cost)
        effective = max(min(self.settled_seconds, 2.0 * SLOW_SECONDS), window)
        return math.sqrt(float(self.rate @ square) * self._dispersion / effective) / work if work > 0 else 0.0

    def _spread(self, burst_ratio: float, square: Floats, window: float, since_last: float) -> None:
        """Dispersion from the fullest tenth of the window: for a Poisson stream it lies about 1.54 standard
        deviations above the mean of ten."""
        work = float(self.rate @ self._costs()[0])
        if work <= 0 or self.settled_seconds < 2.5 * window:  # a step within the window is no burst
            return
        expected = 1.54 * math.sqrt(float(self.rate @ square) / (window / 10.0)) / work
        weight = min(since_last / SLOW_SECONDS, 1.0)
        self._excess += weight * (min((burst_ratio - 1.0) / max(expected, 1e-9), 6.0) - self._excess)
        # Work of a heavy-tailed mix lies about a fifth further out than a normal one, with nothing uneven about it.
        self._dispersion = min(max(self._excess / 1.2, 1.0) ** 2, 20.0)


def _by_bin(values: tuple[float, ...]) -> Floats:
    if len(values) != COST_BINS:
        return np.zeros(COST_BINS)
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
