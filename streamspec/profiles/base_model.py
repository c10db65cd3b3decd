"""The base model: boosted trees trained offline, for every head that was measured.

One serves every chain, because heads are named by what they measure (``useful_time:compress:zstd:9``); a service
keeps of it what its own chain needs (:meth:`BaseModel.restricted`). Its bytes are an npz archive of plain arrays.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from streamspec.core.features import FEATURE_INDEX, FEATURE_SCHEMA_VERSION
from streamspec.core.interfaces import Rows
from streamspec.core.prediction import MAX_VARIANTS, PREDICTION, Features, Head
from streamspec.profiles.head_plan import Floats, plan_heads
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.tree_kernels import SIZE_SCALE_BYTES, add_up_chain, predict_forest, singles_of
from streamspec.profiles.trees import Forest, MalformedForest, finite_rows

PACKAGED = "base_model.npz"
COVERAGES: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Shares of segments for which the margins of a model are kept."""
_FORMAT = 1
_LENGTH = FEATURE_INDEX["length_bytes"]
assert _LENGTH == 0, "the kernel reads the length from the first column"

BLIND_NS_PER_BYTE = 4.0
"""Work of a stage that nobody has measured, by byte of ``length + SIZE_SCALE_BYTES``: between scan and compression."""
BLIND_MARGIN = 2.0
"""Its upper prediction is higher by e to the power of this, about 7 times."""


@dataclass(frozen=True)
class BaseModel:
    """Implements ``head_plan.BasePredictor``; immutable, safe in any thread.

    Attributes:
        heads: what it predicts, as ``target:cost_key``.
        forest: trees of each head.
        bias: added to the logarithm, shape ``(heads,)``.
        slope: factor of ``log(length + SIZE_SCALE_BYTES)``, shape ``(heads,)``.
        margins: log residual that a share ``COVERAGES[i]`` of segments of files not trained on stayed below, shape
            ``(heads, len(COVERAGES))``.
        training_set: what it was trained on.
        metrics: how good it was.
    """

    heads: tuple[str, ...]
    forest: Forest
    bias: Floats
    slope: Floats
    margins: Floats
    training_set: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.heads)
        shapes = (self.bias.shape, self.slope.shape, self.margins.shape, self.forest.first_tree.shape)
        if shapes != ((count,), (count,), (count, len(COVERAGES)), (count + 1,)):
            raise MalformedForest(f"{count} heads and arrays of {shapes}")
        for array in (self.bias, self.slope, self.margins):
            if array.dtype != np.float64 or not array.flags.c_contiguous or not np.isfinite(array).all():
                raise MalformedForest("bias, slope or margins are not contiguous float64 numbers")
            array.flags.writeable = False

    def predict_log(self, features: Features) -> Floats:
        """Natural logarithm of each head (nanoseconds, or bytes out / bytes in), shape ``(n, len(heads))``.

        Args:
            features: ``float32``, shape ``(n, FEATURE_COUNT)``; NaN and infinities are taken as zero.
        """
        rows, forest = finite_rows(features), self.forest
        out = np.empty((len(rows), len(self.heads)))
        predict_forest(
            rows, forest.feature, forest.threshold, forest.leaf, forest.first_tree, self.bias, self.slope, out
        )
        return out

    def predict_log_plainly(self, features: Features) -> Floats:
        """As :meth:`predict_log`, in NumPy."""
        rows = finite_rows(features)
        size = np.log(_lengths(rows) + SIZE_SCALE_BYTES)
        logs: Floats = self.bias + self.slope * size[:, np.newaxis] + self.forest.sums(rows)
        return logs

    def restricted(self, heads: Sequence[str]) -> BaseModel:
        """The model of those of ``heads`` that it has, in that order; predicting takes time for each head."""
        known = [self.heads.index(name) for name in dict.fromkeys(heads) if name in self.heads]
        return BaseModel(
            tuple(self.heads[index] for index in known),
            self.forest.restricted(known),
            self.bias[known],
            self.slope[known],
            self.margins[known],
            self.training_set,
            self.metrics,
        )

    def margins_for(self, coverage: float) -> Floats:
        """Log residual of each head for a coverage, between those that are kept; shape ``(heads,)``."""
        return np.array([np.interp(coverage, COVERAGES, row) for row in self.margins])

    # -- as bytes -----------------------------------------------------------------------------
    def to_bytes(self) -> bytes:
        """An npz archive of plain arrays; equal models give equal bytes."""
        facts = {
            "format": _FORMAT,
            "feature_schema": FEATURE_SCHEMA_VERSION,
            "heads": self.heads,
            "coverages": COVERAGES,
            "training_set": dict(self.training_set),
            "metrics": dict(self.metrics),
        }
        text = json.dumps(facts, separators=(",", ":"), sort_keys=True).encode()
        arrays: dict[str, Any] = {"facts": np.frombuffer(text, dtype=np.uint8), **self.forest.arrays("forest")}
        arrays |= {"bias": self.bias, "slope": self.slope, "margins": self.margins}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        return file.getvalue()


def load(content: bytes) -> BaseModel:
    """The model of :meth:`BaseModel.to_bytes`.

    Raises:
        ContentRefused: it is none, damaged, or of another feature schema.
    """
    where = "profiles.base_model"
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(arrays["facts"].tobytes())
        form = (facts["format"], facts["feature_schema"], tuple(facts["coverages"]))
        if form != (_FORMAT, FEATURE_SCHEMA_VERSION, COVERAGES):
            raise ContentRefused(
                "a base model of another feature schema or format",
                where=where,
                value=form[:2],
                allowed=str((_FORMAT, FEATURE_SCHEMA_VERSION)),
                next_step="train it again: streamspec train",
            )
        return BaseModel(
            tuple(str(name) for name in facts["heads"]),
            Forest.from_arrays(arrays, "forest"),
            np.ascontiguousarray(arrays["bias"]),
            np.ascontiguousarray(arrays["slope"]),
            np.ascontiguousarray(arrays["margins"]),
            training_set=dict(facts["training_set"]),
            metrics=dict(facts["metrics"]),
        )
    except ContentRefused:
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds for bytes that are not theirs
        raise ContentRefused(
            f"not a base model: {error}", where=where, next_step="train one: streamspec train"
        ) from error


@cache
def packaged() -> bytes | None:
    """The model that comes with the package, for the built-in stages; None when this installation lacks it."""
    file = resources.files("streamspec.profiles").joinpath(PACKAGED)
    return file.read_bytes() if file.is_file() else None


def head_names(heads: Sequence[Head]) -> tuple[str, ...]:
    """Each head as ``target:cost_key``."""
    return tuple(f"{head.target}:{head.cost_key}" for head in heads)


class BasePredictor:
    """Implements ``Predictor`` by a base model alone; nothing is learned on top.

    Args:
        model: for any chain, or None.
        heads: of this chain, ``chain_heads``.
        coverage: share of segments that stay below ``upper_ns``.

    Attributes:
        blind_heads: heads that the model lacks; they are predicted from the length alone.
    """

    version = 0

    def __init__(self, model: BaseModel | None, heads: Sequence[Head], *, coverage: float = 0.9) -> None:
        self.coverage = coverage
        names = head_names(heads)
        self._model = None if model is None else model.restricted(names)
        known = () if self._model is None else self._model.heads
        self.blind_heads = tuple(name for name in dict.fromkeys(names) if name not in known)
        self._plan = plan_heads(heads).arrays
        self._columns = np.array([known.index(name) if name in known else -1 for name in names], dtype=np.int64)
        self._is_time = np.array([head.target == "useful_time" for head in heads], dtype=bool)
        self._margins = np.full(len(heads), BLIND_MARGIN)
        if self._model is not None:
            seen = self._columns >= 0
            self._margins[seen] = self._model.margins_for(coverage)[self._columns[seen]]

    def predict_log(self, features: Features) -> Floats:
        """Natural logarithm of each head of the chain, shape ``(n, heads)``."""
        rows = finite_rows(features)
        seen = self._columns >= 0
        if self._model is not None and seen.all():
            logs = self._model.predict_log(rows)
            return logs if len(logs.T) == len(seen) else logs[:, self._columns]
        size = np.log(BLIND_NS_PER_BYTE * (_lengths(rows) + SIZE_SCALE_BYTES))
        blind = np.where(self._is_time, size[:, np.newaxis], 0.0)
        if self._model is not None and seen.any():
            blind[:, seen] = self._model.predict_log(rows)[:, self._columns[seen]]
        return blind

    def predict(self, features: Features, host_load: float, out: Rows) -> None:
        """See ``Predictor``; the load is not looked at."""
        rows, plan = len(features), self._plan
        target = out if out.flags.c_contiguous and out.dtype == PREDICTION else np.empty(rows, dtype=PREDICTION)
        add_up_chain(
            np.ascontiguousarray(self.predict_log(features)),
            self._margins,
            plan.time_heads,
            plan.ratio_heads,
            plan.defaults,
            plan.varied_stage,
            MAX_VARIANTS,
            singles_of(target),
        )
        if target is not out:
            out[:] = target


def _lengths(features: Features) -> Floats:
    return np.maximum(features[:, _LENGTH].astype(np.float64), 0.0)
