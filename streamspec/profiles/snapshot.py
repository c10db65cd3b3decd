"""What the dispatcher predicts with: base model, corrections and bounds of one moment, as immutable arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.features import FEATURE_COUNT, FEATURE_SCHEMA_VERSION
from streamspec.core.interfaces import Rows
from streamspec.core.prediction import LATENCY, PREDICTION, Features, LaneState
from streamspec.profiles.array_bytes import pack_arrays, unpack_arrays
from streamspec.profiles.bound_kernels import COLUMNS as BOUND_COLUMNS
from streamspec.profiles.head_plan import BasePredictor, Floats, HeadPlan, Indices
from streamspec.profiles.latency_kernels import (
    BATCH,
    FIELDS,
    LANE,
    LOAD,
    NICE,
    WAIT,
    WORK,
    WORKERS,
    LatencyState,
    predict_latencies,
)
from streamspec.profiles.online_inputs import GROUPS, INPUTS, WEIGHTS
from streamspec.profiles.online_kernels import Correction, predict_rows
from streamspec.profiles.online_state import new_correction, new_heads, new_latency
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.tracking_kernels import Tracking

_SINGLES = PREDICTION.itemsize // 4
_CORRECTION = Correction._fields
_TRACKING = Tracking._fields


class Snapshot:
    """Implements ``Predictor`` and ``LatencyPredictor``; never changes. Safe to use from several threads.

    Args:
        plan: the heads.
        base: the offline model, or None.
        correction: see ``online_kernels.Correction``.
        latency: see ``latency_kernels.LatencyState``.
        version: 0 for the one that a service starts with.
        coverage: see ``Predictor``.
        status: what learning looks like, for people and metrics: JSON.
    """

    def __init__(
        self,
        plan: HeadPlan,
        base: BasePredictor | None,
        correction: Correction,
        latency: LatencyState,
        *,
        version: int = 0,
        coverage: float = 0.9,
        status: Mapping[str, Any] | None = None,
    ) -> None:
        self.version = version
        self.coverage = coverage
        self.status: Mapping[str, Any] = status or {}
        self.plan = plan
        self._base = base
        self._columns = plan.columns_of(base)
        self._correction = correction
        self._latency = latency
        for array in (*correction, *latency.residual, *latency.miss, latency.bounds):
            array.flags.writeable = False

    # -- predicting ---------------------------------------------------------------------------
    def predict(self, features: Features, host_load: float, out: Rows) -> None:
        """See ``Predictor``."""
        rows = len(features)
        if not rows:
            return
        features = finite_features(features)
        offsets = base_offsets(self._base, self._columns, features)
        target = out if out.flags.c_contiguous else np.empty(rows, dtype=PREDICTION)
        singles = target.view(np.float32).reshape(rows, _SINGLES)
        predict_rows(features, offsets, float(host_load), self.plan.arrays, self._correction, singles)
        if target is not out:
            out[:] = target

    def predict_latency(
        self, wait_ns: Floats, work_ns: Floats, lane: LaneState, objective_ns: float, out: Rows
    ) -> None:
        """See ``LatencyPredictor``."""
        facts = np.empty((len(wait_ns), FIELDS))
        facts[:, WAIT], facts[:, WORK] = wait_ns, work_ns
        facts[:, LOAD], facts[:, LANE] = lane.host_load, lane.lane
        facts[:, WORKERS], facts[:, BATCH], facts[:, NICE] = lane.workers, lane.batch, lane.nice
        singles = np.empty((len(facts), 3), dtype=np.float32)
        predict_latencies(facts, float(objective_ns), self._latency, singles)
        out[:] = singles.view(LATENCY)[:, 0]

    def warm(self) -> None:
        """Load or compile the kernels now rather than in front of the first segment."""
        self.predict(np.zeros((1, FEATURE_COUNT), dtype=np.float32), 0.0, np.zeros(1, dtype=PREDICTION))
        self.predict_latency(np.zeros(1), np.zeros(1), LaneState(), 1.0, np.zeros(1, dtype=LATENCY))

    # -- as bytes -----------------------------------------------------------------------------
    def to_bytes(self) -> bytes:
        """All but the base model; no pickle."""
        facts = {
            "version": self.version,
            "coverage": self.coverage,
            "heads": self.plan.keys,
            "feature_schema": FEATURE_SCHEMA_VERSION,
            "based": self._columns.tolist(),
            "status": dict(self.status),
        }
        arrays = {f"correction.{name}": array for name, array in zip(_CORRECTION, self._correction, strict=True)}
        for kind in ("residual", "miss"):
            state = getattr(self._latency, kind)
            arrays |= {f"{kind}.{name}": array for name, array in zip(_TRACKING, state, strict=True)}
        return pack_arrays(facts, arrays | {"latency.bounds": self._latency.bounds})

    @classmethod
    def from_bytes(cls, content: bytes, plan: HeadPlan, base: BasePredictor | None) -> Snapshot:
        """The snapshot of :meth:`to_bytes`, with the same heads and base model as there.

        Raises:
            ContentRefused: the bytes are damaged, or of other heads, another base model or feature schema.
        """
        facts, arrays = unpack_arrays(content)
        given = (facts.get("heads"), facts.get("feature_schema"), facts.get("based"))
        if given != (list(plan.keys), FEATURE_SCHEMA_VERSION, plan.columns_of(base).tolist()):
            raise ContentRefused("of other heads than the chain has", where="profiles.snapshot", value=given[0])
        try:
            correction = Correction(*(arrays[f"correction.{name}"] for name in _CORRECTION))
            _check(correction, len(plan))
            residual, miss = (
                Tracking(*(arrays[f"{kind}.{name}"] for name in _TRACKING)) for kind in ("residual", "miss")
            )
            latency = LatencyState(residual, miss, arrays["latency.bounds"])
            if _shapes(latency) != _shapes(new_latency(0.0)):
                raise ValueError("latency models of another shape")
            version, coverage, status = int(facts["version"]), float(facts["coverage"]), facts["status"]
        except (KeyError, TypeError, ValueError) as error:
            raise ContentRefused(f"not a snapshot: {error}", where="profiles.snapshot") from error
        return cls(plan, base, correction, latency, version=version, coverage=coverage, status=status)


def first_snapshot(
    plan: HeadPlan, base: BasePredictor | None, *, coverage: float = 0.9, adaptation: float = 0.02
) -> Snapshot:
    """What is predicted before anything was learned: the base model, or size alone where there is none."""
    columns = plan.columns_of(base)
    correction = new_correction(new_heads(plan, columns, adaptation), has_base=bool((columns >= 0).any()))
    return Snapshot(plan, base, correction, new_latency(adaptation), coverage=coverage)


def _check(model: Correction, heads: int) -> None:
    """Raises ValueError for what a kernel could not follow safely: children must come after their parent."""
    nodes = len(model.inputs)
    shapes = (model.weights.shape, model.roots.shape, model.bounds.shape, model.doubt.shape)
    if shapes != ((heads, WEIGHTS), (heads,), (1 + GROUPS, BOUND_COLUMNS), (1,)):
        raise ValueError("models of another shape")
    if not len(model.values) == len(model.left) == len(model.right) == nodes:
        raise ValueError("trees of another shape")
    inner = np.flatnonzero(model.inputs >= 0)
    children = np.concatenate([model.left[inner] - inner, model.right[inner] - inner])
    furthest = max(model.left[inner].max(initial=0), model.right[inner].max(initial=0), model.roots.max(initial=-1))
    if (children <= 0).any() or furthest >= max(nodes, 1) or (model.inputs >= INPUTS).any():
        raise ValueError("trees that lead nowhere")
    if (model.roots >= nodes).any() or not all(np.isfinite(array).all() for array in model):
        raise ValueError("numbers that are none")


def _shapes(latency: LatencyState) -> list[tuple[int, ...]]:
    return [array.shape for array in (*latency.residual, *latency.miss, latency.bounds)]


def finite_features(features: Features) -> Features:
    """Contiguous rows of ``FEATURE_COUNT`` finite numbers; the same object when it is that already."""
    rows = np.ascontiguousarray(features, dtype=np.float32).reshape(-1, FEATURE_COUNT)
    if not np.isfinite(rows).all():
        rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return rows


def base_offsets(base: BasePredictor | None, columns: Indices, features: Features) -> npt.NDArray[np.float64]:
    """What the base model says of each head, shape ``(n, heads)``; 0 where it says nothing."""
    offsets = np.zeros((len(features), len(columns)))
    if base is None or not len(columns):
        return offsets
    known = columns >= 0
    if known.all():
        offsets[:] = base.predict_log(features)[:, columns]
    elif known.any():
        offsets[:, known] = base.predict_log(features)[:, columns[known]]
    return offsets
