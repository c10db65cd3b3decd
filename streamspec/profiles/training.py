"""Boosted trees fitted offline by scikit-learn, and exported to the flat arrays that run without it.

The target is a logarithm: of useful time over ``length + SIZE_SCALE_BYTES``, or of the output ratio. What counts in
the end is the sum of absolute errors over the sum of work, so long segments weigh more: by the root of their work,
halfway between equal weights (which the logarithm asks for) and work (which the sum asks for). Every step looks at a
random part of the features, which lets the trees of one boosting differ (stochastic gradient boosting, Friedman 2002).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.features import FEATURE_INDEX
from streamspec.core.prediction import Features
from streamspec.profiles.base_model import COVERAGES, BaseModel
from streamspec.profiles.head_plan import Floats, Indices
from streamspec.profiles.tree_kernels import SIZE_SCALE_BYTES
from streamspec.profiles.trees import Forest, join_forests

FeatureSet = Literal["size", "size_and_count", "content"]
FEATURE_SETS: tuple[FeatureSet, ...] = ("size", "size_and_count", "content")
_COLUMNS: dict[FeatureSet, tuple[str, ...] | None] = {
    "size": ("length_bytes",),
    "size_and_count": ("length_bytes", "packets"),
    "content": None,
}
"""Features of each set; None is all."""

BINS = 128
"""Most bins of a feature, at its quantiles."""
SLOPES = {"useful_time": 1.0, "output_ratio": 0.0}
"""Power of the length that a head is measured against: the trees predict what deviates from it."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TreeParameters:
    """How trees are grown. Trees times depth is what a prediction costs.

    Attributes:
        trees: of one head.
        depth: of each.
        leaves: most of each.
        learning_rate: share of its finding that each tree contributes.
        smallest_leaf: fewest segments in a leaf.
        features_share: share of the features that a split chooses from.
        seed: of that choice.
    """

    trees: int
    depth: int = 6
    leaves: int = 40
    learning_rate: float = 0.12
    smallest_leaf: int = 10
    features_share: float = 0.4
    seed: int = 0


PARAMETERS: dict[str, TreeParameters] = {
    "useful_time": TreeParameters(trees=56),
    "output_ratio": TreeParameters(trees=24, learning_rate=0.2, features_share=0.6),
}
"""By target. The ratio is smoother, so fewer trees do."""


@dataclass(frozen=True)
class Samples:
    """Measured segments.

    Attributes:
        features: ``float32``, shape ``(n, FEATURE_COUNT)``.
        heads: as ``target:cost_key``.
        values: of each head, ``float64``, shape ``(n, heads)``: nanoseconds, or bytes out / bytes in; NaN where it was
            not measured.
        group: number of the file, or of whatever must not be split; ``int64``, shape ``(n,)``.
        counts: the segment is one as the service would cut it, and counts in metrics; ``bool``, shape ``(n,)``.
    """

    features: Features
    heads: tuple[str, ...]
    values: Floats
    group: Indices
    counts: npt.NDArray[np.bool_]

    def of(self, rows: Any) -> Samples:
        """Some of the rows."""
        return replace(
            self,
            features=self.features[rows],
            values=self.values[rows],
            group=self.group[rows],
            counts=self.counts[rows],
        )


def require_scikit_learn() -> None:
    """Raises DependencyUnavailable when it is not installed."""
    try:
        import sklearn.ensemble  # noqa: F401
    except ImportError as error:
        raise DependencyUnavailable(
            "training needs the package scikit-learn", where="train", next_step="pip install 'streamspec[train]'"
        ) from error


# -- one head ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class CodedFeatures:
    """Features as numbers of their bins: scikit-learn takes whole seconds to find bins for weighted samples.

    Attributes:
        lengths: of the segments, bytes.
        codes: shape ``(n, columns)``: how many edges of the column lie below the value.
        columns: the features that may be used.
        edges: of each column, ascending, so that ``value <= edges[k]`` exactly where ``code <= k``.
    """

    lengths: Floats
    codes: Features
    columns: Indices
    edges: tuple[Features, ...]

    def of(self, rows: Any) -> CodedFeatures:
        """Some of the rows."""
        return replace(self, lengths=self.lengths[rows], codes=self.codes[rows])


def code_features(features: Features, use: FeatureSet = "content") -> CodedFeatures:
    """Cut each column at its quantiles into at most ``BINS`` bins."""
    named = _COLUMNS[use]
    columns = np.arange(features.shape[1]) if named is None else np.array([FEATURE_INDEX[name] for name in named])
    shares = np.linspace(0, 1, BINS + 1)[1:-1]
    edges, codes = [], []
    for column in columns:
        values = features[:, column]
        distinct = np.unique(values)
        chosen = distinct if len(distinct) <= BINS else np.unique(np.quantile(values, shares, method="lower"))
        edges.append(_middles(chosen, distinct))
        codes.append(np.searchsorted(edges[-1], values, side="left").astype(np.float32))
    lengths = features[:, 0].astype(np.float64)
    return CodedFeatures(lengths, np.column_stack(codes), columns, tuple(edges))


def _middles(chosen: Features, distinct: Features) -> Features:
    """From each chosen value halfway to the next that occurs, rounded to no more than the half."""
    above = np.searchsorted(distinct, chosen, side="right")
    lower = chosen[above < len(distinct)].astype(np.float64)
    upper = distinct[above[above < len(distinct)]].astype(np.float64)
    middle = ((lower + upper) / 2).astype(np.float32)
    edges: Features = np.where(middle < upper, middle, lower.astype(np.float32))
    return edges


def fit_head(coded: CodedFeatures, values: Floats, target: str, parameters: TreeParameters) -> tuple[Forest, float]:
    """Fit one head; returns its trees and bias.

    Args:
        coded: of the segments.
        values: positive, shape ``(n,)``.
        target: ``useful_time`` or ``output_ratio``.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    logs = np.log(np.maximum(values, 1e-9)) - SLOPES[target] * np.log(coded.lengths + SIZE_SCALE_BYTES)
    model = HistGradientBoostingRegressor(
        max_iter=parameters.trees,
        max_depth=parameters.depth,
        max_leaf_nodes=parameters.leaves,
        learning_rate=parameters.learning_rate,
        min_samples_leaf=min(parameters.smallest_leaf, max(len(values) // 4, 1)),
        max_features=parameters.features_share if len(coded.columns) > 2 else 1.0,
        early_stopping=False,
        random_state=parameters.seed,
    )
    weights = np.sqrt(values / values.mean()) if target == "useful_time" else None
    with _one_thread():
        model.fit(coded.codes, logs, sample_weight=weights)
    trees = [_export(stage[0].nodes, coded, parameters.depth) for stage in model._predictors]
    feature, threshold, leaf = (np.stack(part) for part in zip(*trees, strict=True))
    forest = Forest(feature, threshold, leaf, np.array([0, len(trees)], dtype=np.int64))
    return forest, float(np.ravel(model._baseline_prediction)[0])


@contextmanager
def _one_thread() -> Iterator[None]:
    """The tables here are too small for more: on shared cores, waiting threads spin longer than they work."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def _export(nodes: Any, coded: CodedFeatures, depth: int) -> tuple[Any, Any, Any]:
    """One tree of scikit-learn, filled up to ``depth``, on the features themselves."""
    feature = np.zeros((1 << depth) - 1, dtype=np.uint8)
    threshold = np.full((1 << depth) - 1, np.inf, dtype=np.float32)
    leaf = np.zeros(1 << depth, dtype=np.float32)
    to_do = [(0, 0, 0)]
    while to_do:
        number, place, level = to_do.pop()
        node = nodes[number]
        if level == depth:
            leaf[place - len(feature)] = node["value"]
        elif node["is_leaf"]:
            to_do += [(number, 2 * place + 1, level + 1), (number, 2 * place + 2, level + 1)]
        else:
            column = int(node["feature_idx"])
            feature[place] = coded.columns[column]
            threshold[place] = coded.edges[column][int(node["num_threshold"])]  # a code and a half
            to_do += [(int(node["left"]), 2 * place + 1, level + 1), (int(node["right"]), 2 * place + 2, level + 1)]
    return feature, threshold, leaf


# -- all heads --------------------------------------------------------------------------------
def fit(
    samples: Samples,
    *,
    use: FeatureSet = "content",
    parameters: dict[str, TreeParameters] | None = None,
    margins: Floats | None = None,
    progress: Progress | None = None,
) -> BaseModel:
    """Fit every head to all samples.

    Args:
        margins: of each head, from :func:`margins_of`; zero when not given.
        progress: called with the name of each head that is done.
    """
    coded = code_features(samples.features, use)
    forests, biases, slopes = [], [], []
    for column, name in enumerate(samples.heads):
        target = name.partition(":")[0]
        values = samples.values[:, column]
        measured = np.isfinite(values)
        forest, bias = fit_head(coded.of(measured), values[measured], target, (parameters or PARAMETERS)[target])
        forests.append(forest)
        biases.append(bias)
        slopes.append(SLOPES[target])
        if progress is not None:
            progress(name)
    if margins is None:
        margins = np.zeros((len(samples.heads), len(COVERAGES)))
    return BaseModel(samples.heads, join_forests(forests), np.array(biases), np.array(slopes), margins)


# -- cross-validation -------------------------------------------------------------------------
def split_groups(group: Indices, work: Floats, folds: int) -> Indices:
    """The fold of each row: whole groups, shared out so that the folds have about the same work."""
    numbers, places = np.unique(group, return_inverse=True)
    weights = np.bincount(places, weights=np.nan_to_num(work))
    load = np.zeros(max(min(folds, len(numbers)), 1))
    fold_of = np.zeros(len(numbers), dtype=np.int64)
    for index in np.argsort(-weights, kind="stable"):
        fold_of[index] = np.argmin(load)
        load[fold_of[index]] += weights[index]
    return fold_of[places]


def cross_validate(
    samples: Samples,
    *,
    use: FeatureSet = "content",
    folds: int = 10,
    parameters: dict[str, TreeParameters] | None = None,
    progress: Progress | None = None,
) -> Floats:
    """Predictions of each head by models that saw nothing of the same group, shape ``(n, heads)``; the exported
    trees predict. NaN when there is only one group."""
    fold = split_groups(samples.group, np.nansum(samples.values, axis=1), folds)
    predicted = np.full(samples.values.shape, np.nan)
    if fold.max(initial=0) == 0:
        return predicted
    for number in range(fold.max() + 1):
        model = fit(samples.of(fold != number), use=use, parameters=parameters, progress=progress)
        out = fold == number
        predicted[out] = np.exp(model.predict_log(samples.features[out]))
    return predicted


def margins_of(samples: Samples, predicted: Floats) -> Floats:
    """Conformal margins: log residual that each share of ``COVERAGES`` stayed below, shape ``(heads, shares)``.

    The quantile is that of split conformal prediction, ``ceil((n + 1) share) / n`` (Vovk et al. 2005).
    """
    margins = np.zeros((len(samples.heads), len(COVERAGES)))
    for column in range(len(samples.heads)):
        value, guess = samples.values[samples.counts, column], predicted[samples.counts, column]
        both = (value > 0) & (guess > 0)
        if both.any():
            residuals = np.log(value[both] / guess[both])
            shares = np.minimum(np.ceil((len(residuals) + 1) * np.array(COVERAGES)) / len(residuals), 1.0)
            margins[column] = np.quantile(residuals, shares)
    return margins


def errors(value: Floats, guess: Floats) -> dict[str, float | None]:
    """``work_error`` (sum of absolute errors over sum of values), ``r2_log`` (share of the variance of the logarithm
    that is explained) and ``segments``, over the rows where both are positive; None where there is nothing to tell."""
    both = (value > 0) & (guess > 0)
    value, guess = value[both], guess[both]
    if not len(value):
        return {"work_error": None, "r2_log": None, "segments": 0}
    logs = np.log(value)
    spread = float(((logs - logs.mean()) ** 2).sum())
    unexplained = float(((logs - np.log(guess)) ** 2).sum())
    return {
        "work_error": round(float(np.abs(value - guess).sum() / value.sum()), 4),
        "r2_log": round(1 - unexplained / spread, 4) if spread > 0 else None,
        "segments": len(value),
    }


def identity_of(samples: Samples, names: Sequence[str]) -> str:
    """Digest of what was measured: the same measurements in the same files give the same."""
    digest = hashlib.sha256()
    for part in (samples.features, samples.values, samples.group):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update("\0".join((*samples.heads, *names)).encode())
    return digest.hexdigest()[:16]
