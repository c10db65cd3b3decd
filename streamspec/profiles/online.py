"""The online layer: learns from measured outcomes what the base model does not know.

This machine's speed, this chain, the types of today, and every change of them. It reaches no file, socket or
clock; the process around it (:mod:`streamspec.profiles.learner_process`) does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamspec.core.features import FEATURE_SCHEMA_VERSION
from streamspec.core.interfaces import Rows
from streamspec.core.prediction import Head
from streamspec.profiles.bound_kernels import QUANTILE
from streamspec.profiles.challengers import Challengers
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.head_plan import BasePredictor, plan_heads
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
    learn_latencies,
)
from streamspec.profiles.online_inputs import INPUT_NAMES, INPUTS
from streamspec.profiles.online_kernels import Correction, Learned, learn_rows
from streamspec.profiles.online_state import new_correction, new_heads, new_latency
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.shared_state import LEARNED_FIELDS, SharedState, adopt, pack_state, take, unpack_state
from streamspec.profiles.snapshot import Snapshot, base_offsets, finite_features
from streamspec.profiles.tracking_kernels import COUNT, DRIFTS, LOSS, Tracking
from streamspec.profiles.unpickling import dump_state, load_state

STATE_FORMAT = 2
BORROWED_AFTER = 50
"""Outcomes that a variant has learned before others take over what it knows."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What became of a batch of outcomes.

    Attributes:
        learned: outcomes that at least one head learned.
        unmeasured: outcomes that measured no head, and so taught nothing.
        drifts: outcomes in which a sudden change was noticed.
        tree_learned: pieces (an outcome for one head's tree) that the trees learned.
        tree_skipped: pieces that their CPU budget did not allow.
    """

    learned: int
    unmeasured: int
    drifts: int
    tree_learned: int
    tree_skipped: int


class OnlineLayer:
    """Models of every head of one chain, and of latency.

    Args:
        heads: of the chain, ``chain_heads``.
        base: the offline model, or None: then it starts from size alone.
        config: coverage, adaptation, share of the trees.
        base_identity: names the base model in stored states.
        objective_ns: the latency objective, 0 for none; may be changed at any time.
        now_ns, cpu_ns: monotonic time and CPU time of this thread, for the budget of the trees.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        base: BasePredictor | None = None,
        config: LearningConfig | None = None,
        *,
        base_identity: str = "",
        objective_ns: float = 0.0,
        now_ns: Callable[[], int] = time.monotonic_ns,
        cpu_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self.plan = plan_heads(heads)
        self.config = config or LearningConfig()
        self.objective_ns = objective_ns
        self.learned = 0
        self._base = base
        self._base_identity = base_identity
        self._columns = self.plan.columns_of(base)
        self._heads: Tracking = new_heads(self.plan, self._columns, self.config.adaptation)
        self._correction: Correction = new_correction(self._heads, has_base=bool((self._columns >= 0).any()))
        self._latency: LatencyState = new_latency(self.config.adaptation)
        self._challengers = Challengers(len(self.plan), self.config.tree_cpu_share, now_ns, cpu_ns)
        self._said = _room(0, len(self.plan))

    # -- learning -----------------------------------------------------------------------------
    def learn_one(self, row: Any) -> Lesson:
        """Learn one ``OUTCOME``."""
        return self.learn(np.array([row], dtype=row.dtype))

    def learn(self, rows: Rows, *, hurry: bool = False) -> Lesson:
        """Learn profiled, delivered ``OUTCOME`` rows, in order; each as if it came alone.

        Args:
            rows: at most a few hundred at a time, to be done soon.
            hurry: others wait: leave the trees out.
        """
        if not len(rows):
            return Lesson(0, 0, 0, 0, 0)
        features = finite_features(rows["features"])
        said = self._work(len(rows))
        learn_rows(
            features,
            base_offsets(self._base, self._columns, features),
            np.ascontiguousarray(rows["host_load"]),
            np.ascontiguousarray(rows["useful_ns"]),
            np.ascontiguousarray(rows["variant"]),
            _ratios(rows),
            self.plan.arrays,
            self._heads,
            self._correction,
            self.config.coverage,
            said,
        )
        self._learn_latency(rows, said)
        self._borrow()
        drifts = int((said.alarms > 0).sum())
        if drifts:
            self._challengers.drifted()
        tree_learned, tree_skipped = self._challengers.learn(said, hurry=hurry)
        learned = int((said.work_ns > 0).sum())
        self.learned += learned
        return Lesson(learned, len(rows) - learned, drifts, tree_learned, tree_skipped)

    def _work(self, count: int) -> Learned:
        if len(self._said.work_ns) < count:
            self._said = _room(max(count, 256), len(self.plan))
        return Learned._make(array[:count] for array in self._said)

    def _learn_latency(self, rows: Rows, said: Learned) -> None:
        facts = np.empty((len(rows), FIELDS))
        facts[:, WORK] = said.work_ns
        for column, name in (
            (WAIT, "wait_ns"),
            (LOAD, "host_load"),
            (LANE, "lane"),
            (WORKERS, "workers"),
            (BATCH, "batch"),
            (NICE, "nice"),
        ):
            facts[:, column] = rows[name]
        np.nan_to_num(facts, copy=False)
        latencies = rows["latency_ns"].astype(np.float64)
        learn_latencies(facts, latencies, float(self.objective_ns), self._latency, self.config.coverage)

    def _borrow(self) -> None:
        """Variants that never ran here take over what the others of their stage know of this machine."""
        counts, weights = self._heads.numbers[:, COUNT], self._heads.weights
        for index in np.flatnonzero(counts == 0).tolist():
            for other in self.plan.sibling_of(index):
                if counts[other] >= BORROWED_AFTER and (self._columns[other] >= 0) == (self._columns[index] >= 0):
                    weights[index] = weights[other]
                    break

    # -- publishing ---------------------------------------------------------------------------
    def snapshot(self, version: int) -> Snapshot:
        """What is known now. From here on this layer predicts with the same trees, so that their loss is of what was
        published."""
        bounds, doubt = self._correction.bounds.copy(), self._correction.doubt.copy()
        self._correction = Correction(self._heads.weights.copy(), *self._challengers.flat(), bounds, doubt)
        return Snapshot(
            self.plan,
            self._base,
            Correction._make(array.copy() for array in self._correction),
            _copied(self._latency),
            version=version,
            coverage=self.config.coverage,
            status=self.status(),
        )

    def status(self) -> dict[str, Any]:
        """What learning looks like: for each head outcomes, recent absolute error of the log, changes noticed, and
        who is champion."""
        heads = {}
        for index, key in enumerate(self.plan.keys):
            numbers = self._heads.numbers[index]
            heads[key] = {
                "learned": int(numbers[COUNT]),
                "recent_log_error": round(float(numbers[LOSS]), 4),
                "drifts": int(numbers[DRIFTS]),
                **self._challengers.status(index),
                "has_base": bool(self._columns[index] >= 0),
            }
        latency = self._latency.residual.numbers[0]
        return {
            "learned": self.learned,
            "heads": heads,
            "latency": {"learned": int(latency[COUNT]), "recent_log_error": round(float(latency[LOSS]), 4)},
            "upper_log": round(float(self._correction.bounds[0, QUANTILE] + self._correction.doubt[0]), 4),
        }

    # -- keeping ------------------------------------------------------------------------------
    def state(self) -> bytes:
        """Everything that was learned, for :meth:`restore`; holds River trees, so it is a pickle: keep it signed."""
        return dump_state(
            {
                "format": STATE_FORMAT,
                "feature_schema": FEATURE_SCHEMA_VERSION,
                "inputs": INPUT_NAMES,
                "base": self._base_identity,
                "heads": self.plan.keys,
                "learned": self.learned,
                "tracking": tuple(self._heads),
                "latency": (tuple(self._latency.residual), tuple(self._latency.miss), self._latency.bounds),
                "bounds": (self._correction.bounds, self._correction.doubt),
                "challengers": self._challengers.state(self.plan.keys),
            }
        )

    def restore(self, content: bytes) -> int:
        """Continue from a state of :meth:`state` whose signature was checked; returns how many heads it had for us.

        Heads that the chain did not have then start anew.

        Raises:
            ContentRefused: it is damaged, or of another version, feature schema or base model. Nothing has changed.
        """
        state = load_state(content)
        try:
            found = self._places(state)
            tracking = _checked(state["tracking"], self._heads)
            residual = _checked(state["latency"][0], self._latency.residual)
            miss = _checked(state["latency"][1], self._latency.miss)
            challengers = Challengers.parse(state["challengers"])
            rest = (*state["bounds"], state["latency"][2], int(state["learned"]))
        except ContentRefused:
            raise
        except Exception as error:  # whatever a foreign object in its place raises
            raise ContentRefused(f"not a state of the online layer: {error!r}", where="profiles.online") from error
        ours, theirs = list(found), list(found.values())
        take(self._heads, ours, tracking, theirs)
        take(self._latency.residual, [0], residual, [0])
        take(self._latency.miss, [0], miss, [0])
        names = {self.plan.keys[index]: index for index in ours}
        self._challengers.take({names[name]: one for name, one in challengers.items() if name in names})
        self._correction.bounds[:], self._correction.doubt[:], self._latency.bounds[:], self.learned = rest
        self._borrow()
        return len(found)

    # -- sharing ------------------------------------------------------------------------------
    def shared(self) -> bytes:
        """What other instances can start from: the fast models, without the trees and without a pickle."""
        return pack_state(self._shared())

    def adopt(self, content: bytes) -> int:
        """Take over from another instance's :meth:`shared` what it knows much better (see ``shared_state``); returns
        how many heads. Check its signature first.

        Raises:
            ContentRefused: it is damaged, or of another version or base model. Nothing has changed.
        """
        theirs = unpack_state(content, self._shared())
        taken = adopt(self._shared(), theirs, self.config.adaptation)
        if taken:
            self._challengers.forget(taken)
            self.learned = max(self.learned, theirs.learned)
            self._borrow()
        return len(taken)

    def _shared(self) -> SharedState:
        """The arrays themselves, not copies."""
        correction = self._correction
        return SharedState(
            self._base_identity,
            self.plan.keys,
            self.learned,
            self._heads,
            self._latency,
            correction.bounds,
            correction.doubt,
        )

    def _places(self, state: Any) -> dict[int, int]:
        """Place of each of our heads in the state."""
        ours = (STATE_FORMAT, FEATURE_SCHEMA_VERSION, INPUT_NAMES, self._base_identity)
        theirs = tuple(state[name] for name in ("format", "feature_schema", "inputs", "base"))
        if theirs != ours:
            raise ContentRefused(
                "the state was learned on top of another base model or other features", where="profiles.online"
            )
        keys = list(state["heads"])
        return {index: keys.index(key) for index, key in enumerate(self.plan.keys) if key in keys}


def _room(count: int, heads: int) -> Learned:
    return Learned(
        np.zeros((count, INPUTS)), np.zeros((count, heads)), np.zeros(count), np.zeros(count, dtype=np.int64)
    )


def _ratios(rows: Rows) -> Any:
    """Bytes out / bytes in; 0 where nothing came in or out."""
    bytes_in, bytes_out = rows["length"].astype(np.float64), rows["payload_bytes_out"].astype(np.float64)
    return np.divide(bytes_out, bytes_in, out=np.zeros(len(rows)), where=bytes_in > 0)


def _copied(latency: LatencyState) -> LatencyState:
    return LatencyState(
        Tracking._make(array.copy() for array in latency.residual),
        Tracking._make(array.copy() for array in latency.miss),
        latency.bounds.copy(),
    )


def _checked(values: Any, ours: Tracking) -> Tracking:
    """A stored ``Tracking`` whose models are shaped like ours."""
    theirs = Tracking(*values)
    for name in LEARNED_FIELDS:
        found, wanted = getattr(theirs, name), getattr(ours, name)
        if found.shape[1:] != wanted.shape[1:] or found.dtype != wanted.dtype or not np.isfinite(found).all():
            raise ValueError(f"{name} of another shape")
    return theirs
