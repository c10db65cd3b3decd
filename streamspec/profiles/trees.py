"""Boosted trees as immutable flat arrays.

Every tree is filled up to the same depth, so that node ``i`` has the children ``2 i + 1`` (its feature is at most the
threshold) and ``2 i + 2`` (it is greater). A branch that ends early is filled with nodes whose threshold is infinite:
everything goes left, to its one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.prediction import Features
from streamspec.profiles.head_plan import Floats, Indices

FeatureNumbers = npt.NDArray[np.uint8]

MAX_DEPTH = 12


class MalformedForest(ValueError):
    """Arrays that are no forest."""


@dataclass(frozen=True)
class Forest:
    """Trees of several heads, those of one head one behind the other.

    Attributes:
        feature: column of each inner node, ``uint8``, shape ``(trees, 2**depth - 1)``.
        threshold: of each inner node, ``float32``, same shape; infinite where nothing is split.
        leaf: value of each leaf, ``float32``, shape ``(trees, 2**depth)``.
        first_tree: first tree of each head, and the number of trees; ``int64``, shape ``(heads + 1,)``.
    """

    feature: FeatureNumbers
    threshold: Features
    leaf: Features
    first_tree: Indices

    def __post_init__(self) -> None:
        """Refuse what the kernel could not read safely.

        Raises:
            MalformedForest: shapes, types or numbers do not fit together.
        """
        for name, dtype, ndim in (("feature", "u1", 2), ("threshold", "<f4", 2), ("leaf", "<f4", 2)):
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
                raise MalformedForest(f"{name} is no contiguous {dtype} array of {ndim} dimensions")
        trees, leaves = self.leaf.shape
        depth = leaves.bit_length() - 1
        if leaves != 1 << depth or not 1 <= depth <= MAX_DEPTH:
            raise MalformedForest(f"{leaves} leaves; allowed: a power of two from 2 to {1 << MAX_DEPTH}")
        if self.feature.shape != (trees, leaves - 1) or self.threshold.shape != (trees, leaves - 1):
            raise MalformedForest("nodes and leaves do not fit together")
        if trees and int(self.feature.max()) >= FEATURE_COUNT:
            raise MalformedForest(f"feature {int(self.feature.max())} of {FEATURE_COUNT}")
        if np.isnan(self.threshold).any() or not np.isfinite(self.leaf).all():
            raise MalformedForest("thresholds or leaves are not numbers")
        first = self.first_tree
        whole = first.dtype == np.int64 and first.ndim == 1 and len(first) >= 1
        if not whole or first[0] != 0 or first[-1] != trees or (np.diff(first) < 0).any():
            raise MalformedForest("the heads do not share out the trees")
        for array in (self.feature, self.threshold, self.leaf, self.first_tree):
            array.flags.writeable = False

    @property
    def depth(self) -> int:
        """Steps of a walk."""
        return int(self.leaf.shape[1]).bit_length() - 1

    def sums(self, features: Features) -> Floats:
        """Sum of the trees of each head in plain NumPy, shape ``(n, heads)``; what the kernel is tested against."""
        rows = np.arange(len(features))
        out = np.zeros((len(features), len(self.first_tree) - 1))
        for head in range(out.shape[1]):
            for tree in range(self.first_tree[head], self.first_tree[head + 1]):
                node = np.zeros(len(features), dtype=np.int64)
                for _ in range(self.depth):
                    right = features[rows, self.feature[tree, node]] > self.threshold[tree, node]
                    node = 2 * node + 1 + right
                out[:, head] += self.leaf[tree, node - (self.leaf.shape[1] - 1)]
        return out

    def restricted(self, heads: Sequence[int]) -> Forest:
        """The trees of these heads, in this order."""
        spans = [np.arange(self.first_tree[head], self.first_tree[head + 1]) for head in heads]
        trees = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
        first = np.cumsum([0, *map(len, spans)]).astype(np.int64)
        return Forest(self.feature[trees], self.threshold[trees], self.leaf[trees], first)

    def arrays(self, prefix: str) -> dict[str, npt.NDArray[Any]]:
        """For an archive of arrays."""
        return {f"{prefix}.{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Forest:
        """The forest of :meth:`arrays`.

        Raises:
            MalformedForest: they are no forest.
            KeyError: one is missing.
        """
        return cls(*(np.ascontiguousarray(arrays[f"{prefix}.{name}"]) for name in cls.__dataclass_fields__))


def join_forests(forests: Sequence[Forest]) -> Forest:
    """One forest of the heads of several, in order; all of the same depth."""
    sizes = [np.diff(forest.first_tree) for forest in forests]
    first = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    feature, threshold, leaf = (
        np.concatenate([getattr(forest, name) for forest in forests]) for name in ("feature", "threshold", "leaf")
    )
    return Forest(feature, threshold, leaf, first)


def finite_rows(features: Features) -> Features:
    """Contiguous ``float32`` rows of ``FEATURE_COUNT`` finite numbers; the same object when it is that already."""
    rows = np.ascontiguousarray(features, dtype=np.float32).reshape(-1, FEATURE_COUNT)
    if not np.isfinite(rows).all():
        rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return rows
