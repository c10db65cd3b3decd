"""Get a resource profile for a feature vector: what the stored models say that such a segment will need.

The same models that a service predicts with, asked without a service: the champion of the base model, and on
top of it what was learned online and stored last. Where one of them is missing, what is left answers, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamspec.core.features import FEATURE_COUNT, FEATURE_SCHEMA_VERSION
from streamspec.core.prediction import MAX_VARIANTS, PREDICTION, Features, Head
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.head_plan import BasePredictor, HeadPlan
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.records import StoredModel
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.snapshot import Snapshot

SIZE_ALONE = "size alone"

LoadBase = Callable[[bytes], BasePredictor]


@dataclass(frozen=True, slots=True)
class StageProfile:
    """What one stage of the chain is expected to need.

    Attributes:
        work_ns: useful CPU time in the variant that runs by default.
        variant_work_ns: useful CPU time in each variant, by cost key.
        variant_ratio: bytes out / bytes in of each variant, by cost key; empty where that is not learned.
    """

    work_ns: float
    variant_work_ns: Mapping[str, float]
    variant_ratio: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ResourceProfile:
    """What a segment is expected to need.

    Attributes:
        work_ns: useful CPU time of the whole chain, every stage in its default variant.
        upper_ns: not exceeded by ``coverage`` of the segments like it.
        coverage: that share.
        stages: the stages in order.
    """

    work_ns: float
    upper_ns: float
    coverage: float
    stages: tuple[StageProfile, ...]


class ProfileLookup:
    """The stored models for one chain, as they were when this was made.

    Args:
        snapshot: predicts the whole chain.
        base: the model under it, or None.
        models: which stored things answer, e.g. ``base:3`` and ``online``; ``size alone`` where there are none.
        refusals: why others do not.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        base: BasePredictor | None,
        models: Sequence[str] = (SIZE_ALONE,),
        refusals: Sequence[str] = (),
    ) -> None:
        self.models = tuple(models)
        self.refusals = tuple(refusals)
        self._snapshot = snapshot
        content, plan = snapshot.to_bytes(), snapshot.plan
        stages = range(max((head.stage for head in plan.heads), default=-1) + 1)
        self._stages = [Snapshot.from_bytes(content, _only(plan, stage), base) for stage in stages]

    @classmethod
    def open(
        cls,
        database: ProfileDatabase,
        heads: Sequence[Head],
        load_base: LoadBase,
        *,
        model: str = "base",
        state: str | None = "online",
    ) -> ProfileLookup:
        """Read the models of a chain.

        Args:
            database: where they are.
            heads: of the chain, ``chain_heads``.
            load_base: makes the base model of its content.
            model: name of the base model.
            state: name of the state that was learned online; None asks the base model alone.

        Raises:
            DatabaseUnusable: the file cannot be read. What is refused of its content is left out and told in
                ``refusals``.
        """
        refusals: list[str] = []
        base: BasePredictor | None = None
        identity = ""
        try:
            stored = database.champion(model)
            if stored is not None:
                base, identity = load_base(_of_our_features(stored).content), stored.identity
        except ContentRefused as error:
            refusals.append(str(error))
        layer = OnlineLayer(heads, base, base_identity=identity)
        learned = False
        try:
            content = None if state is None else database.online_state(state)
            learned = content is not None and layer.restore(content) > 0
        except ContentRefused as error:
            refusals.append(str(error))
        answering = [name for name in (identity, state if learned else "") if name]
        return cls(layer.snapshot(0), base, answering or [SIZE_ALONE], refusals)

    def profile(self, features: Features, host_load: float = 0.0) -> ResourceProfile:
        """The profile of one segment.

        Args:
            features: as the profiler fills them, shape ``(FEATURE_COUNT,)``.
            host_load: share of the usable cores that is busy (0 to 1).
        """
        return self.profiles(np.reshape(features, (1, FEATURE_COUNT)), host_load)[0]

    def profiles(self, features: Features, host_load: float = 0.0) -> list[ResourceProfile]:
        """The profiles of several segments, ``features`` of shape ``(n, FEATURE_COUNT)``."""
        chain, *stages = (
            self._predicted(snapshot, features, host_load) for snapshot in (self._snapshot, *self._stages)
        )
        plan, coverage = self._snapshot.plan, self._snapshot.coverage
        return [
            ResourceProfile(
                float(chain["work_ns"][row]),
                float(chain["upper_ns"][row]),
                coverage,
                tuple(_stage_profile(plan, stage, found[row]) for stage, found in enumerate(stages)),
            )
            for row in range(len(features))
        ]

    @staticmethod
    def _predicted(snapshot: Snapshot, features: Features, host_load: float) -> np.ndarray:
        out = np.zeros(len(features), dtype=PREDICTION)
        snapshot.predict(features, host_load, out)
        return out


def _of_our_features(stored: StoredModel) -> StoredModel:
    if stored.feature_schema != FEATURE_SCHEMA_VERSION:
        raise ContentRefused(
            f"was trained for features of schema {stored.feature_schema}",
            where=f"model {stored.identity}",
            allowed=f"schema {FEATURE_SCHEMA_VERSION}",
            next_step="train it again with `streamspec train`",
        )
    return stored


def _only(plan: HeadPlan, stage: int) -> HeadPlan:
    """The plan as if the chain were that stage alone, with the heads where they are."""
    time_heads = np.full_like(plan.arrays.time_heads, -1)
    time_heads[stage] = plan.arrays.time_heads[stage]
    ratio_heads = np.full(MAX_VARIANTS, -1, dtype=np.int64)
    for index, head in enumerate(plan.heads):
        if head.stage == stage and head.target == "output_ratio":
            ratio_heads[head.variant] = index
    arrays = plan.arrays._replace(time_heads=time_heads, ratio_heads=ratio_heads, varied_stage=stage, ratio_stage=stage)
    return replace(plan, arrays=arrays)


def _stage_profile(plan: HeadPlan, stage: int, row: np.void) -> StageProfile:
    heads = [head for head in plan.heads if head.stage == stage]
    return StageProfile(
        float(row["work_ns"]),
        {h.cost_key: float(row["variant_work_ns"][h.variant]) for h in heads if h.target == "useful_time"},
        {h.cost_key: float(row["variant_ratio"][h.variant]) for h in heads if h.target == "output_ratio"},
    )
