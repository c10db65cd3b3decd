"""Sums over finished segments beyond the accounts', for what is shown of a running service.

They cost nothing until something listens: see :class:`Readings`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from streamspec.core.interfaces import Counts, Rows
from streamspec.core.outcome import OUTCOME
from streamspec.core.segment import ERROR_KINDS, MAX_STAGES
from streamspec.engine import kernels
from streamspec.engine import readings_kernels as columns

if TYPE_CHECKING:
    from streamspec.engine.accounts import Accounts


class Readings:
    """Adds up every finished segment, a batch at a time; made once, before the stream begins.

    Args:
        accounts: of the dispatcher; its listeners are told of outcomes.
        objective_of_lane: latency in seconds above which a segment of that lane is late.

    Attributes:
        lanes: ``int64 (lanes, COLUMNS)``, see ``readings_kernels``; lanes that keep their name keep their sums.
        useful: ``int64 (lanes, buckets)``: useful time of delivered segments, in the accounts' buckets.
        content: ``int64 (CONTENT_ROWS, 2)``: segments and bytes by type of content, the last row not profiled.
        errors: ``int64 (kinds, MAX_STAGES + 1)``: dead-lettered segments by kind and stage.
        stages: ``int64 (MAX_STAGES,)``: useful nanoseconds by stage.
        cells: ``int64 (WORK_CELLS, WORK_CELLS)``: predicted by measured work.
    """

    def __init__(self, accounts: Accounts, objective_of_lane: Callable[[str], float]) -> None:
        self._objective_of_lane = objective_of_lane
        self._accounts = accounts
        self._names: list[str] = []
        self.lanes: Counts = np.zeros((0, columns.COLUMNS), dtype=np.int64)
        self.useful: Counts = np.zeros((0, kernels.HISTOGRAM_BUCKETS), dtype=np.int64)
        self.content: Counts = np.zeros((columns.CONTENT_ROWS, 2), dtype=np.int64)
        self.errors: Counts = np.zeros((len(ERROR_KINDS), MAX_STAGES + 1), dtype=np.int64)
        self.stages: Counts = np.zeros(MAX_STAGES, dtype=np.int64)
        self.cells: Counts = np.zeros((columns.WORK_CELLS, columns.WORK_CELLS), dtype=np.int64)
        self._objectives_ns: Counts = np.zeros(0, dtype=np.int64)
        self.follow_lanes()
        self.take(np.zeros(0, dtype=OUTCOME))  # compiles or loads the kernel while nothing waits
        accounts.listeners.append(self.take)

    def follow_lanes(self) -> None:
        """Have the accounts' lanes."""
        names = self._accounts.lane_names
        if names == self._names:
            return
        lanes = np.zeros((len(names), columns.COLUMNS), dtype=np.int64)
        useful = np.zeros((len(names), kernels.HISTOGRAM_BUCKETS), dtype=np.int64)
        for old, name in enumerate(self._names):
            if name in names:
                lanes[names.index(name)] = self.lanes[old]
                useful[names.index(name)] = self.useful[old]
        self.lanes, self.useful, self._names = lanes, useful, list(names)
        self.follow_objectives()

    def follow_objectives(self) -> None:
        """Ask for the objectives again; they change with the configuration."""
        seconds = [self._objective_of_lane(name) for name in self._names]
        self._objectives_ns = np.array([round(each * 1e9) for each in seconds], dtype=np.int64)

    def take(self, rows: Rows) -> None:
        """Implements ``OutcomeListener``."""
        self.follow_lanes()
        columns.add_rows(
            rows, self._objectives_ns, self.lanes, self.useful, self.content, self.errors, self.stages, self.cells
        )
