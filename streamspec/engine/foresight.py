"""What is known of a segment before it runs: its features, and what they say it will cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from streamspec.core.features import FEATURE_COUNT
from streamspec.core.interfaces import Counts, Rows, SegmentProfiler, Slots
from streamspec.core.prediction import PREDICTION, Features, Predictor
from streamspec.engine import foresight_kernels as kernels
from streamspec.engine.arena import Arena

BATCH_RATIO = 0.05
"""Share of the objective that a worker may be given at once in predicted work: what it holds cannot be hurried."""


class Foresight:
    """Profiles segments as they are committed and predicts their cost, a batch at a time.

    Args:
        arena: whose slots these are.
        profiler: looks into segments.
        predictor: the first model; :attr:`predictor` is exchanged for newer snapshots while the stream runs.
        variant_stage, variants: index of the stage whose variants are predicted, and how many it has; -1, 0 for none.
        priced: they differ in their output. Otherwise (devices) segments are expected to take the one with the least
            work, without a price; which one runs, their worker decides.

    Attributes:
        price_ns: what a byte of output costs in nanoseconds of CPU time; None leaves every stage its default variant
            as long as there is time for it.
        hurries: segments that have little time left may take a faster variant, with or without a price.
        limits_ns: by lane, the latency that its segments are held to; empty: none is, and nothing is hurried.
        features: ``float32 (slots, FEATURE_COUNT)``, by slot.
        predictions: ``PREDICTION`` rows by slot.
        looks: ``LOOK`` rows by slot.
        types: ``int64 (types,)``: segments by inferred type.
        host_load: share of the usable cores that is busy, as the monitor last said.
    """

    def __init__(
        self,
        arena: Arena,
        profiler: SegmentProfiler,
        predictor: Predictor | None = None,
        *,
        variant_stage: int = -1,
        variants: int = 0,
        priced: bool = True,
    ) -> None:
        self.profiler = profiler
        self.predictor = predictor
        self.variant_stage = variant_stage
        self.variants = variants
        self.price_ns: float | None = None
        self._unpriced_ns = None if priced else 0.0
        self.hurries = True
        self.limits_ns: Sequence[float] = ()
        self.host_load = 0.0
        self.features: Features = np.zeros((arena.slots, FEATURE_COUNT), dtype=np.float32)
        self.predictions: Rows = np.zeros(arena.slots, dtype=PREDICTION)
        self.looks: Rows = np.zeros(arena.slots, dtype=kernels.LOOK)
        self.types: Counts = np.zeros(kernels.TYPES, dtype=np.int64)
        self._arena = arena
        self._rows: Rows = np.zeros(256, dtype=PREDICTION)
        self._columns: Features = np.zeros((256, FEATURE_COUNT), dtype=np.float32)

    def look(self, slots: Slots) -> None:
        """Profile and predict committed segments."""
        count = len(slots)
        if count > len(self._rows):
            self._rows = np.zeros(2 * count, dtype=PREDICTION)
            self._columns = np.zeros((2 * count, FEATURE_COUNT), dtype=np.float32)
        features, rows = self._columns[:count], self._rows[:count]
        self.profiler.profile(self._arena, self._arena.headers, slots, features)
        version = 0
        if self.predictor is not None:
            self.predictor.predict(features, self.host_load, rows)
            version = self.predictor.version
        else:
            rows.view(np.uint8)[:] = 0
        kernels.keep(
            slots,
            features,
            rows,
            version,
            self.host_load,
            self.features,
            self.predictions,
            self.looks,
            self.types,
        )

    def expect(self, slots: Slots) -> None:
        """Choose variants for what arrives, so that it is routed and counted by the work that it will be."""
        if self._price() is not None and self.variant_stage >= 0:
            self.choose_variants(slots)
            kernels.expect(self._arena.headers, slots, self.predictions, self.variant_stage, self.looks)

    def batch_ns(self, lane: int) -> float:
        """Predicted work up to which segments of a lane go to a worker together."""
        return BATCH_RATIO * self._limit_ns(lane)

    def plan_batch(self, ring: Slots, marks: Counts, most: int, lane: int, now_ns: int) -> tuple[int, float]:
        """How many from the head of a lane's queue go to a worker together, and their predicted nanoseconds; each has
        its variant then, by the price and by the time that it has left."""
        price_ns = self._price()
        price_ns = kernels.NO_PRICE if price_ns is None else price_ns
        planned: tuple[int, float] = kernels.plan_batch(
            ring,
            marks,
            most,
            self._arena.headers,
            self.predictions,
            self.variant_stage,
            self.variants if self.hurries or price_ns >= 0 else 0,
            price_ns,
            self._limit_ns(lane),
            self.batch_ns(lane),
            now_ns,
        )
        return planned

    def _limit_ns(self, lane: int) -> float:
        return self.limits_ns[lane] if lane < len(self.limits_ns) else math.inf

    def choose_variants(self, slots: Slots) -> None:
        """Give segments the variant that is cheapest at the present price."""
        price_ns = self._price()
        if price_ns is not None and self.variant_stage >= 0:
            headers, predictions = self._arena.headers, self.predictions
            kernels.choose_variants(headers, slots, predictions, self.variant_stage, self.variants, price_ns)

    def _price(self) -> float | None:
        return self._unpriced_ns if self.price_ns is None else self.price_ns

    def note(self, headers: Rows, slots: Slots, outcomes: Rows) -> None:
        """Write into the outcomes of finished slots what had been seen and predicted of them."""
        kernels.note(headers, slots, self.features, self.predictions, self.looks, self.variant_stage, outcomes)
