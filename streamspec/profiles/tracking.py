"""The fast models as River estimators: the same kernels, behind ``learn_one`` and ``predict_one``.

The learner runs the kernels over whole batches (:mod:`streamspec.profiles.online_kernels`); row by row they do
what ``learn_one`` does here, which tests compare.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from river import base

from streamspec.profiles.tracking_kernels import COUNT, LOSS, NOISE, Tracking, linear, new_tracking, track, track_chance

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

MAX_FEATURES = 128


class _Columns:
    """Gives each feature a column when it is first seen; beyond the capacity features are not looked at."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.places: dict[Any, int] = {}

    def add(self, x: dict[Any, Any]) -> None:
        """Give new features a column, in an order that does not depend on that of ``x``."""
        for name in sorted(x.keys() - self.places.keys(), key=str):
            if len(self.places) >= self.capacity:
                return
            self.places[name] = 1 + len(self.places)

    def row(self, x: dict[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``x`` as inputs of the kernels; what is missing, unknown or no finite number is zero."""
        row = np.zeros(self.capacity + 1)
        row[0] = 1.0
        for name, value in x.items():
            place = self.places.get(name)
            if place is not None:
                number = float(value)
                row[place] = number if np.isfinite(number) else 0.0
        return row


class _Tracking(base.Estimator):
    """What both have in common."""

    intercept_walk: float
    weight_walk: float
    intercept_variance: float
    weight_variance: float
    max_features: int

    def _begin(self) -> None:
        size = min(max(self.max_features, 1), MAX_FEATURES)
        prior = np.full((1, size + 1), self.weight_variance)
        walk = np.full(size + 1, self.weight_walk)
        prior[0, 0], walk[0] = self.intercept_variance, self.intercept_walk
        self._columns = _Columns(size)
        self._state: Tracking = new_tracking(np.zeros((1, size + 1)), prior, walk, 0)
        self._scratch = np.zeros(size + 1)

    @property
    def learned(self) -> int:
        """Outcomes learned."""
        return int(self._state.numbers[0, COUNT])

    @property
    def recent_error(self) -> float:
        """Mean absolute error of the predictions made just before each of about 300 last outcomes."""
        return float(self._state.numbers[0, LOSS])

    def _unit_test_skips(self) -> set[str]:
        return set()


class TrackingRegression(_Tracking, base.MiniBatchRegressor):
    """Linear regression that follows its weights: a Kalman filter, robust, with Page's test for sudden changes.

    Args:
        intercept_walk: standard deviation of a step of the intercept, in those of the noise.
        weight_walk: the same for the weights of features.
        intercept_variance: variance of the intercept before anything is learned.
        weight_variance: the same for the weights.
        max_features: features looked at, the first that occur (1 to 128).
    """

    def __init__(
        self,
        intercept_walk: float = 0.02,
        weight_walk: float = 0.003,
        intercept_variance: float = 100.0,
        weight_variance: float = 1.0,
        max_features: int = 32,
    ) -> None:
        self.intercept_walk = intercept_walk
        self.weight_walk = weight_walk
        self.intercept_variance = intercept_variance
        self.weight_variance = weight_variance
        self.max_features = max_features
        self._begin()

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise, as estimated."""
        return math.sqrt(float(self._state.numbers[0, NOISE]))

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn one outcome."""
        self._columns.add(x)
        track(self._state, 0, self._columns.row(x), -1, float(y), self._scratch)

    def predict_one(self, x: dict[Any, Any]) -> float:
        """What ``y`` will be; 0 before anything was learned."""
        return float(linear(self._state, 0, self._columns.row(x), -1))

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """:meth:`learn_one` for each row."""
        for x, value in zip(X.to_dict(orient="records"), y, strict=True):
            self.learn_one(x, value)

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """:meth:`predict_one` for each row."""
        import pandas as pd

        return pd.Series([self.predict_one(x) for x in X.to_dict(orient="records")], index=X.index)


class TrackingClassifier(_Tracking, base.Classifier):
    """Logistic regression that follows its weights: an extended Kalman filter. Two classes, false and true.

    Args:
        intercept_walk: standard deviation of a step of the intercept.
        weight_walk: the same for the weights of features.
        intercept_variance: variance of the intercept before anything is learned.
        weight_variance: the same for the weights.
        max_features: features looked at, the first that occur (1 to 128).
    """

    def __init__(
        self,
        intercept_walk: float = 0.01,
        weight_walk: float = 0.002,
        intercept_variance: float = 4.0,
        weight_variance: float = 1.0,
        max_features: int = 32,
    ) -> None:
        self.intercept_walk = intercept_walk
        self.weight_walk = weight_walk
        self.intercept_variance = intercept_variance
        self.weight_variance = weight_variance
        self.max_features = max_features
        self._begin()

    @property
    def _multiclass(self) -> bool:
        return False

    def learn_one(self, x: dict[Any, Any], y: Any) -> None:
        """Learn one outcome."""
        self._columns.add(x)
        track_chance(self._state, 0, self._columns.row(x), -1, float(bool(y)), self._scratch)

    def predict_proba_one(self, x: dict[Any, Any], **_: Any) -> dict[bool | str | int, float]:
        """The chance of each class."""
        score = min(max(linear(self._state, 0, self._columns.row(x), -1), -30.0), 30.0)
        chance = float(1.0 / (1.0 + np.exp(-score)))
        return {False: 1.0 - chance, True: chance}
