"""The challengers of all heads, within one CPU budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from streamspec.profiles.challenger import Challenger, CpuBudget, flatten, tree_inputs
from streamspec.profiles.head_plan import Floats, Indices
from streamspec.profiles.online_kernels import Learned


class FlatTrees(NamedTuple):
    """The trees that are champions; fields as in ``online_kernels.Correction``."""

    roots: Indices
    inputs: Indices
    values: Floats
    left: Indices
    right: Indices


class Challengers:
    """One tree for each head that is measured.

    Args:
        heads: how many there are.
        share: of one core.
        now_ns, cpu_ns: see ``CpuBudget``.
    """

    def __init__(self, heads: int, share: float, now_ns: Callable[[], int], cpu_ns: Callable[[], int]) -> None:
        self._heads = heads
        self._share = share
        self._budget = CpuBudget(share, now_ns, cpu_ns)
        self._of: dict[int, Challenger] = {}

    def learn(self, said: Learned, *, hurry: bool) -> tuple[int, int]:
        """Learn residuals of a batch, or skip them all in a ``hurry``; returns pieces (one outcome, one head) learned
        and skipped."""
        measured = np.isfinite(said.residuals)
        wanted = int(measured.sum())
        allowed = self._budget.affordable(wanted) if self._share > 0 and not hurry else 0
        if not allowed:
            return 0, wanted
        rows = np.flatnonzero(measured.any(axis=1))
        taken = rows[:: -(-wanted // allowed)]  # spread over the batch, so that no source or type is left out
        learned, started = 0, self._budget.measure()
        for row in taken.tolist():
            x = tree_inputs(said.inputs[row])
            for head in np.flatnonzero(measured[row]).tolist():
                if head not in self._of:
                    self._of[head] = Challenger()
                self._of[head].learn_one(x, float(said.residuals[row, head]))
                learned += 1
        self._budget.spend(started, learned)
        return learned, wanted - learned

    def drifted(self) -> None:
        """A sudden change was noticed."""
        for challenger in self._of.values():
            challenger.drifted()

    def forget(self, heads: Sequence[int]) -> None:
        """The linear models of these heads are others now: what the trees learned on top of the old ones is void."""
        for head in heads:
            self._of.pop(head, None)

    def flat(self) -> FlatTrees:
        """The champions among the trees, as arrays."""
        champions = [self._champion(head) for head in range(self._heads)]
        roots, nodes = flatten(champions)
        inputs, values, left, right = list(zip(*nodes, strict=True)) or [(), (), (), ()]
        return FlatTrees(
            np.array(roots, dtype=np.int64),
            np.array(inputs, dtype=np.int64),
            np.array(values, dtype=np.float64),
            np.array(left, dtype=np.int64),
            np.array(right, dtype=np.int64),
        )

    def _champion(self, head: int) -> Any:
        challenger = self._of.get(head)
        return challenger.model if challenger is not None and challenger.is_champion else None

    def status(self, head: int) -> dict[str, Any]:
        """Who is champion of a head, and how its tree fares."""
        challenger = self._of.get(head)
        return {
            "champion": "tree" if challenger and challenger.is_champion else "linear",
            "tree_learned": challenger.learned if challenger else 0,
            "tree_log_error": round(challenger.loss, 4) if challenger else None,
        }

    def state(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """All of it by the keys of heads; holds River trees."""
        return {keys[head]: vars(challenger) for head, challenger in self._of.items()}

    @staticmethod
    def parse(state: Mapping[str, Mapping[str, Any]]) -> dict[str, Challenger]:
        """The challengers of :meth:`state`. Raises KeyError, TypeError, AttributeError for anything else."""
        fields = Challenger.__dataclass_fields__
        return {str(key): Challenger(**{name: values[name] for name in fields}) for key, values in state.items()}

    def take(self, challengers: Mapping[int, Challenger]) -> None:
        """Go on with these."""
        self._of = dict(challengers)
