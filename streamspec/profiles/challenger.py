"""The challenger of a head: a Hoeffding tree on what the linear model leaves, and when it becomes champion.

The tree learns the residual of the linear model, so it keeps its worth when the machine changes its speed: the
linear model follows that. What is published is the linear model alone, or both together; progressive loss decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.profiles.online_inputs import INPUT_NAMES, TREE_SCALES

Floats = npt.NDArray[np.float64]

MAX_DEPTH = 5
RADIUS = 0.05
_TREE_INPUTS = range(1, len(INPUT_NAMES))
LOSS_GAIN = 1 / 300
FAIR_TRIAL = 200
"""Outcomes before a challenger can win."""
WINS_BY = 0.98
"""It becomes champion when its loss is below this share of the linear model's ..."""
LOSES_BY = 1.0
"""... and ceases to be when it is above this one."""
HOPELESS_AFTER = 4000
HOPELESS_BY = 1.02
LARGEST_RESIDUAL = 2.0


def new_tree() -> Any:
    """A tree of at most 2^MAX_DEPTH leaves, which bounds its memory to a few megabytes."""
    from river import tree  # takes a second and more, and not every learner has trees

    return tree.HoeffdingTreeRegressor(
        grace_period=100,
        max_depth=MAX_DEPTH,
        delta=1e-4,
        tau=0.1,
        leaf_prediction="mean",
        splitter=tree.splitter.QOSplitter(radius=RADIUS),
        binary_split=True,
        memory_estimate_period=1 << 60,  # estimating takes longer than learning, and depth bounds it already
    )


def tree_inputs(x: Floats) -> dict[int, float]:
    """Inputs of the tree, by column, in one range."""
    row = x.tolist()
    return {column: row[column] * TREE_SCALES[column] for column in _TREE_INPUTS}


@dataclass
class Challenger:
    """One head's tree and how it fares.

    Attributes:
        model: the River tree.
        is_champion: it is added to what is predicted.
        learned: outcomes the present tree has learned.
        loss, linear_loss: recent absolute error with and without it, over the same outcomes.
        restarts: trees given up.
    """

    model: Any = field(default_factory=new_tree)
    is_champion: bool = False
    learned: int = 0
    loss: float = 0.0
    linear_loss: float = 0.0
    restarts: int = 0
    _recent: int = 0

    def learn_one(self, x: dict[int, float], residual: float) -> None:
        """Predict, compare, then learn what the linear model left of one outcome."""
        bounded = min(max(residual, -LARGEST_RESIDUAL), LARGEST_RESIDUAL)
        error = abs(residual - self.model.predict_one(x))
        self._recent += 1
        gain = max(1 / self._recent, LOSS_GAIN)
        self.loss += gain * (error - self.loss)
        self.linear_loss += gain * (abs(residual) - self.linear_loss)
        self.model.learn_one(x, bounded)
        self.learned += 1
        self._judge()

    def drifted(self) -> None:
        """What was measured before counts little from here on."""
        self._recent = min(self._recent, 20)

    def _judge(self) -> None:
        if self.is_champion:
            self.is_champion = self.loss <= LOSES_BY * self.linear_loss
        elif self.learned >= FAIR_TRIAL:
            self.is_champion = self.loss < WINS_BY * self.linear_loss
        if not self.is_champion and self.learned >= HOPELESS_AFTER and self.loss > HOPELESS_BY * self.linear_loss:
            self.model = new_tree()
            self.learned = self._recent = 0
            self.loss = self.linear_loss = 0.0
            self.restarts += 1


class CpuBudget:
    """A share of one core, saved up for at most a fifth of a second of work.

    Args:
        share: of the core.
        now_ns: monotonic time.
        cpu_ns: CPU time of this thread.
    """

    SAVED_NS = 2e8

    def __init__(self, share: float, now_ns: Callable[[], int], cpu_ns: Callable[[], int]) -> None:
        self.share = share
        self._now_ns, self._cpu_ns = now_ns, cpu_ns
        self._left_ns = 0.0
        self._filled_ns = now_ns()
        self._each_ns = 50_000.0

    def affordable(self, wanted: int) -> int:
        """How many more pieces of work can be paid for, of those wanted."""
        now = self._now_ns()
        self._left_ns = min(self._left_ns + (now - self._filled_ns) * self.share, self.SAVED_NS)
        self._filled_ns = now
        return min(wanted, max(int(self._left_ns / self._each_ns), 0))

    def measure(self) -> int:
        """The start of some work, for :meth:`spend`."""
        return self._cpu_ns()

    def spend(self, started_ns: int, pieces: int) -> None:
        """Pay for ``pieces`` done since ``started_ns``."""
        spent = self._cpu_ns() - started_ns
        self._left_ns -= spent
        if pieces:
            self._each_ns += 0.2 * (max(spent / pieces, 1000.0) - self._each_ns)


def flatten(trees: list[Any]) -> tuple[list[int], list[tuple[int, float, int, int]]]:
    """Trees as rows for kernels.

    Returns:
        The first row of each tree (-1 for None and for a tree that knows nothing), and the rows
        ``(input or -1, threshold or value, left, right)``.
    """
    rows: list[tuple[int, float, int, int]] = []
    return [_flatten_one(one, rows) for one in trees], rows


def _flatten_one(model: Any, rows: list[tuple[int, float, int, int]]) -> int:
    if model is None or model._root is None:
        return -1
    return _flatten_node(model._root, rows)


def _flatten_node(node: Any, rows: list[tuple[int, float, int, int]]) -> int:
    place = len(rows)
    rows.append((-1, 0.0, -1, -1))
    if hasattr(node, "threshold"):
        column = int(node.feature)
        left, right = (_flatten_node(child, rows) for child in node.children)
        rows[place] = (column, float(node.threshold) / TREE_SCALES[column], left, right)
    else:
        rows[place] = (-1, float(node.prediction(None, tree=None)), -1, -1)
    return place
