"""Outcomes on their way to the learner: a ring of rows in memory that dispatcher and learner share.

One side writes, the other reads; each counter has one writer, and none of them is ever taken back, so both sides and
a learner that takes the place of a dead one agree on what happened to each outcome.
"""

from __future__ import annotations

import mmap
import os

import numpy as np

from streamspec.core.interfaces import Counts, Rows
from streamspec.core.outcome import OUTCOME

_PAGE = 4096
_LINE = 8  # counters of one cache line

OFFERED = 0
"""Written by the dispatcher: rows put in."""
TAKEN, LEARNED, UNMEASURED, DRIFTS, TREE_LEARNED, TREE_SKIPPED = range(_LINE, _LINE + 6)
"""Written by the learner: rows taken out, those that were learned, those that measured nothing; and of its models:
sudden changes noticed, pieces of work done and skipped by the trees."""


class OutcomeRing:
    """Both ends of the ring.

    Args:
        capacity: rows.
        fd: descriptor of an existing ring of that capacity, or None to create one. It is owned from here on.
    """

    def __init__(self, capacity: int, fd: int | None = None) -> None:
        size = _PAGE + capacity * OUTCOME.itemsize
        if fd is None:
            fd = os.memfd_create("streamspec-outcomes", os.MFD_CLOEXEC)
            os.ftruncate(fd, size)
        self.fd = fd
        self.capacity = capacity
        self._mapping = mmap.mmap(fd, size)
        self.counters: Counts = np.frombuffer(self._mapping, dtype=np.int64, count=2 * _LINE)
        self._rows: Rows = np.frombuffer(self._mapping, dtype=OUTCOME, count=capacity, offset=_PAGE)

    def put(self, rows: Rows) -> int:
        """Copy the first rows that there is room for; returns how many. Never waits."""
        offered = int(self.counters[OFFERED])
        count = min(len(rows), self.capacity - (offered - int(self.counters[TAKEN])))
        if count > 0:
            place = offered % self.capacity
            first = min(count, self.capacity - place)
            self._rows[place : place + first] = rows[:first]
            self._rows[: count - first] = rows[first:count]
            self.counters[OFFERED] = offered + count  # last: what the reader sees is there
        return count

    def take(self, limit: int) -> Rows:
        """Copies of the oldest rows, up to ``limit``; from here on they are taken, whatever becomes of the taker."""
        taken = int(self.counters[TAKEN])
        count = min(limit, int(self.counters[OFFERED]) - taken)
        place = taken % self.capacity
        rows = self._rows[place : place + count].copy()
        if len(rows) < count:
            rows = np.concatenate([rows, self._rows[: count - len(rows)]])
        self.counters[TAKEN] = taken + count
        return rows

    @property
    def waiting(self) -> int:
        """Rows that are not taken yet."""
        return int(self.counters[OFFERED]) - int(self.counters[TAKEN])

    @property
    def open_count(self) -> int:
        """Rows that were taken and of which it is not known what became of them."""
        return int(self.counters[TAKEN]) - int(self.counters[LEARNED]) - int(self.counters[UNMEASURED])

    def close(self) -> None:
        """Unmap."""
        del self.counters, self._rows
        self._mapping.close()
        os.close(self.fd)
