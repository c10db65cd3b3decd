"""Where the heads of a chain lie in the arrays of models and kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from streamspec.core.prediction import MAX_VARIANTS, Features, Head
from streamspec.core.segment import MAX_STAGES

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class BasePredictor(Protocol):
    """A model trained offline; it does not change while it is in use."""

    @property
    def heads(self) -> Sequence[str]:
        """What it predicts, as ``target:cost_key``."""

    def predict_log(self, features: Features) -> Floats:
        """Natural logarithm of each head, shape ``(n, len(heads))``; of nanoseconds or of bytes out / bytes in.

        Args:
            features: ``float32``, shape ``(n, FEATURE_COUNT)``.
        """


class PlanArrays(NamedTuple):
    """The plan as kernels take it.

    Attributes:
        time_heads: shape ``(stages, MAX_VARIANTS)``: head of the useful time, -1 where there is none.
        ratio_heads: shape ``(MAX_VARIANTS,)``: head of the output ratio by variant of the stage with ratios.
        defaults: default variant of each stage.
        varied_stage: index of the stage whose variants are predicted, -1 for none.
        ratio_stage: index of the stage whose output is learned, -1 for none.
    """

    time_heads: Indices
    ratio_heads: Indices
    defaults: Indices
    varied_stage: int
    ratio_stage: int


@dataclass(frozen=True)
class HeadPlan:
    """The heads of a chain in order.

    Attributes:
        heads: as ``chain_heads`` gives them.
        keys: a name for each that survives a change of the chain around it.
        arrays: where they lie.
    """

    heads: tuple[Head, ...]
    keys: tuple[str, ...]
    arrays: PlanArrays

    def __len__(self) -> int:
        return len(self.heads)

    def columns_of(self, base: BasePredictor | None) -> Indices:
        """Column of ``base`` for each head, -1 where it has none."""
        names = [] if base is None else list(base.heads)
        wanted = [f"{head.target}:{head.cost_key}" for head in self.heads]
        return np.array([names.index(name) if name in names else -1 for name in wanted], dtype=np.int64)

    def sibling_of(self, index: int) -> list[int]:
        """The heads of the other variants of the same stage, the default one first."""
        own = self.heads[index]
        same = [
            other
            for other, head in enumerate(self.heads)
            if other != index and (head.target, head.stage) == (own.target, own.stage)
        ]
        return sorted(same, key=lambda other: not self.heads[other].is_default)


def plan_heads(heads: Sequence[Head]) -> HeadPlan:
    """Lay out the heads of a chain."""
    stages = max((head.stage for head in heads), default=-1) + 1
    time_heads = np.full((max(stages, 1), MAX_VARIANTS), -1, dtype=np.int64)
    ratio_heads = np.full(MAX_VARIANTS, -1, dtype=np.int64)
    defaults = np.zeros(MAX_STAGES, dtype=np.int64)
    changing = [head.stage for head in heads if head.target == "output_ratio"]
    with_variants = {head.stage for head in heads if head.variant > 0}
    varied = min(with_variants & set(changing) or with_variants, default=-1)  # as ``variant_stage``
    ratio_stage = varied if varied in changing else max(changing, default=-1)
    for index, head in enumerate(heads):
        if head.target == "useful_time":
            time_heads[head.stage, head.variant] = index
        elif head.stage == ratio_stage:
            ratio_heads[head.variant] = index
        if head.is_default:
            defaults[head.stage] = head.variant
    seen: Counter[str] = Counter()
    keys = []
    for head in heads:
        name = f"{head.target}:{head.cost_key}"
        seen[name] += 1
        keys.append(f"{name}#{seen[name]}")
    return HeadPlan(tuple(heads), tuple(keys), PlanArrays(time_heads, ratio_heads, defaults, varied, ratio_stage))
