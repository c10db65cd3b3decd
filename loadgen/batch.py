"""What both senders share: rows of a block grouped by key, and markers with their sequence numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadgen import kernels
from loadgen.marker import MARKER_BYTES
from loadgen.schedule import Block


class Grouping:
    """Rows of one batch, grouped by key. Buffers are kept from batch to batch."""

    def __init__(self, keys: int, most_rows: int) -> None:
        self.order = np.zeros(most_rows, dtype=np.int64)
        self._starts = np.zeros(keys + 1, dtype=np.int64)

    def group(self, block: Block, first: int, last: int) -> list[tuple[int, int, int]]:
        """``(key, from, to)`` for each key that has rows, which are ``order[from:to]``, in order of time."""
        kernels.group_by_key(block.keys, first, last, self._starts, self.order)
        used = np.flatnonzero(np.diff(self._starts))
        return list(zip(used.tolist(), self._starts[used].tolist(), self._starts[used + 1].tolist(), strict=True))


@dataclass
class Marking:
    """Numbers messages per key and writes their markers.

    Attributes:
        run: identifies this run among others at the same sink, 32 bits.
        sequences: int64 per key, the next number.
        epoch_ns: wall clock at the start of the run.
    """

    run: int
    sequences: npt.NDArray[np.int64]
    epoch_ns: int = 0

    def stamp(
        self,
        block: Block,
        rows: npt.NDArray[np.int64],
        memory: npt.NDArray[np.uint8],
        positions: npt.NDArray[np.int64],
    ) -> None:
        """Write the marker of each of ``rows`` at its position in ``memory``."""
        columns = (block.times_ns, block.keys, block.messages)
        kernels.stamp(
            columns, rows, len(rows), block.pool.columns, self.sequences, self.run, self.epoch_ns, memory, positions
        )


def marker_bytes(marking: Marking | None) -> int:
    """What a marker adds to each message."""
    return 0 if marking is None else MARKER_BYTES
