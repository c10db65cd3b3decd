"""What is predicted of a segment before it runs: its cost, with every variant of the stage that has some.

A *head* is one learned quantity of one stage in one variant. Its ``cost_key`` says what was measured, apart
from the stage's place in a chain (``"inspect"``, ``"compress:zstd:9"``), so that a model trained on one
chain serves another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from streamspec.core.component import StageConfigBase
from streamspec.core.interfaces import Rows

MAX_VARIANTS = 16
"""Most variants of one stage."""

Features = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Target = Literal["useful_time", "output_ratio"]

PREDICTION = np.dtype(
    [
        ("work_ns", "<f4"),  # useful CPU time of the whole chain, every stage in its default variant
        ("upper_ns", "<f4"),  # not exceeded by `Predictor.coverage` of segments like it
        ("variant_work_ns", "<f4", (MAX_VARIANTS,)),  # the whole chain with that variant; 0 where there is none
        ("variant_ratio", "<f4", (MAX_VARIANTS,)),  # bytes out / bytes in with that variant; 0 where there is none
    ],
    align=True,
)
"""One row per segment; work in nanoseconds."""


LATENCY = np.dtype([("expected_ns", "<f4"), ("upper_ns", "<f4"), ("miss_chance", "<f4")], align=True)
"""One row per segment: end-to-end latency, its bound at the same coverage, and the probability to miss the objective
(0 without one)."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """What latency depends on beside wait and work.

    Attributes:
        lane: index of the lane.
        workers: that the lane has.
        batch: most segments of one message to a worker.
        nice: level of its workers.
        host_load: share of the usable cores that is busy (0 to 1).
    """

    lane: int = 0
    workers: int = 1
    batch: int = 16
    nice: int = 0
    host_load: float = 0.0


@dataclass(frozen=True, slots=True)
class Head:
    """One learned quantity.

    Attributes:
        target: ``useful_time`` (nanoseconds of thread CPU time) or ``output_ratio`` (bytes out / bytes in).
        stage: index in the chain.
        variant: index of the stage's variant; 0 for a stage without variants.
        cost_key: what was measured, independent of the place in the chain.
        is_default: this variant runs unless another is chosen.
    """

    target: Target
    stage: int
    variant: int
    cost_key: str
    is_default: bool = True


def chain_heads(stages: Sequence[StageConfigBase]) -> tuple[Head, ...]:
    """The heads of a chain: useful time of each stage and variant, output ratio of each variant of the stages
    that change the payload."""
    return tuple(
        Head(target, index, variant, key, variant == stage.default_variant)
        for index, stage in enumerate(stages)
        for target in (("useful_time", "output_ratio") if stage.changes_payload else ("useful_time",))
        for variant, key in enumerate(stage.cost_keys)
    )


def variant_stage(stages: Sequence[StageConfigBase]) -> int:
    """Index of the stage that ``variant_work_ns`` and ``variant_ratio`` are about, -1 when none has variants: the first
    with more than one that changes the payload, since a price of output has something to choose there, else the
    first with more than one."""
    varied = [index for index, stage in enumerate(stages) if len(stage.cost_keys) > 1]
    return next((index for index in varied if stages[index].changes_payload), varied[0] if varied else -1)


class Predictor(Protocol):
    """An immutable model of a chain's cost; a newer one replaces it as a whole."""

    version: int
    """Of the snapshot; 0 is the one a service starts with."""
    coverage: float
    """Share of segments whose work stays below ``upper_ns``, e.g. 0.9."""

    def predict(self, features: Features, host_load: float, out: Rows) -> None:
        """Fill ``out`` (``PREDICTION``, n rows) from ``features`` (``float32``, shape ``(n, FEATURE_COUNT)``).

        Args:
            features: as the profiler filled them; NaN and infinities are taken as zero.
            host_load: share of the usable cores that is busy (0 to 1).
            out: every field is finite and not negative afterwards.
        """


class LatencyPredictor(Protocol):
    """What a predictor may also know: how long segments take from arrival to delivery."""

    def predict_latency(
        self, wait_ns: Floats, work_ns: Floats, lane: LaneState, objective_ns: float, out: Rows
    ) -> None:
        """Fill ``out`` (``LATENCY``, n rows).

        Args:
            wait_ns: time each segment will wait before its first stage, as the caller computes it; shape ``(n,)``.
            work_ns: useful time predicted of each, ``work_ns`` of its prediction; shape ``(n,)``.
            lane: where they will run.
            objective_ns: the latency objective, 0 for none.
        """
