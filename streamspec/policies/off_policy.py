"""Off-policy estimates from a log with propensities: what another policy would have cost.

Dudik, Langford, Li: Doubly Robust Policy Evaluation and Learning (ICML 2011); Swaminathan and Joachims: The
Self-Normalized Estimator (NIPS 2015). Costs, not rewards: smaller is better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """Mean cost with the bounds of a 95 % interval (normal approximation), and the effective sample size."""

    mean: float
    low: float
    high: float
    effective_samples: float


def importance_weights(propensity: Floats, target: Floats, clip: float) -> Floats:
    """``target / propensity`` of the logged action, at most ``clip``.

    Raises:
        ValueError: a propensity is not in (0, 1], or a target probability not in [0, 1].
    """
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError("a logged propensity must be above 0 and at most 1")
    if not ((target >= 0) & (target <= 1)).all():
        raise ValueError("a target probability must be within 0 and 1")
    return np.minimum(target / propensity, clip)


def ips(cost: Floats, propensity: Floats, target: Floats, *, clip: float = math.inf) -> Estimate:
    """Inverse propensity score: unbiased without ``clip``, of large variance when policies differ.

    Args:
        cost: of the logged action, shape (n,).
        propensity: probability with which the logging policy took it.
        target: probability with which the policy in question would take it.
        clip: largest weight.
    """
    weights = importance_weights(propensity, target, clip)
    return _estimate(weights * cost, weights)


def snips(cost: Floats, propensity: Floats, target: Floats, *, clip: float = math.inf) -> Estimate:
    """Self-normalised: slightly biased, never outside the range of the costs."""
    weights = importance_weights(propensity, target, clip)
    total = float(weights.sum())
    if total < 1e-12:
        return Estimate(math.nan, -math.inf, math.inf, 0.0)
    mean = float((weights * cost).sum()) / total
    spread = math.sqrt(float((weights**2 * (cost - mean) ** 2).sum())) / total
    return Estimate(mean, mean - 1.96 * spread, mean + 1.96 * spread, _effective(weights))


def doubly_robust(
    cost: Floats,
    propensity: Floats,
    target: Floats,
    predicted: Floats,
    target_predicted: Floats,
    *,
    clip: float = math.inf,
) -> Estimate:
    """Right when either the propensities or the cost model is.

    Args:
        predicted: the cost model's word on the logged action, shape (n,).
        target_predicted: its expectation under the policy in question, shape (n,).
    """
    weights = importance_weights(propensity, target, clip)
    return _estimate(target_predicted + weights * (cost - predicted), weights)


def _estimate(values: Floats, weights: Floats) -> Estimate:
    count = len(values)
    if count == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0.0)
    mean = float(values.mean())
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return Estimate(mean, mean - 1.96 * error, mean + 1.96 * error, _effective(weights))


def _effective(weights: Floats) -> float:
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
