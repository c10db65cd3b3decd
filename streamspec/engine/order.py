"""Order per key: a bounded number of order lines, each a linked list of slots.

A key belongs to the line ``hash(key) mod lines``. Two keys in one line are kept in order with each
other too, which is harmless; no table of keys has to be grown, aged or cleaned. The reorder buffer is
the arena itself: what finished early waits in its slot.
"""

from __future__ import annotations

import numpy as np

from streamspec.core.interfaces import Counts, Rows, Slots
from streamspec.engine import kernels

LINES = 1 << 16


class OrderLines:
    """Which finished segments may be delivered. ``ordered=False`` delivers as they finish."""

    def __init__(self, headers: Rows, *, ordered: bool) -> None:
        slots = len(headers)
        self._headers = headers
        self.ordered = ordered
        self._lines = np.full((LINES if ordered else 1, 2), kernels.NOBODY, dtype=np.int32)
        self._links = np.full((slots, 2), kernels.NOBODY, dtype=np.int32)
        self._ready = np.empty(slots, dtype=np.int32)
        self._again = np.empty(slots, dtype=np.int32)

    def commit(self, slots: Slots, source: int, first_id: int, now_ns: int, accounts: Counts) -> None:
        """Number and append the slots, and add them to the accounts."""
        kernels.commit(self._headers, slots, source, first_id, now_ns, self.ordered, self._lines, self._links, accounts)

    def complete(self, slots: Slots, retries: int) -> tuple[Slots, Slots]:
        """``(ready, again)`` for slots that workers reported; copies, safe to keep."""
        ready, again = kernels.complete(
            self._headers, slots, retries, self.ordered, self._lines, self._links, self._ready, self._again
        )
        return self._ready[:ready].copy(), self._again[:again].copy()

    def remove(self, slot: int) -> Slots:
        """Take a slot out (it was shed); returns what became deliverable behind it."""
        if not self.ordered:
            return self._ready[:0]
        first = kernels.unlink(self._headers, slot, self._lines, self._links)
        if first == kernels.NOBODY:
            return self._ready[:0]
        count = kernels.release_line(self._headers, first, self._lines, self._links, self._ready, 0)
        return self._ready[:count].copy()
