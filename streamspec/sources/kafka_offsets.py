"""Which offsets of one partition are finished: the contiguous part, and what finished beyond it.

A byte per offset from the first unfinished one on; searching and counting in it run at the speed of the C
library. Offsets that the log does not have (compaction, marks of transactions) count as finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamspec.sources import kafka_metadata

_TRIM_BYTES = 1 << 16
CROWDED_RUNS = 1000
"""So many runs fit into a commit's metadata three times."""
LARGEST_SPAN = 1 << 24
"""More than this is not restored from metadata: each offset takes a byte."""


class PartitionOffsets:
    """The state of one partition while we own it.

    Args:
        committed: first unfinished offset, where reading starts.
        runs: lengths behind it, unfinished and finished in turn (of :func:`kafka_metadata.decode`).

    Attributes:
        next_offset: first offset that was not handed in yet.
    """

    __slots__ = ("_done", "_first", "_low", "_restored_end", "next_offset")

    def __init__(self, committed: int, runs: Sequence[int] = ()) -> None:
        self.next_offset = committed
        self._first = committed  # offset of the first byte of `_done`
        self._low = committed
        self._done = bytearray()
        if sum(runs) <= LARGEST_SPAN:
            for index, length in enumerate(runs):
                self._done += (b"\x01" if index % 2 else b"\x00") * length
        self._restored_end = committed + len(self._done)

    @property
    def committable(self) -> int:
        """Every offset before this one is finished."""
        return self._low

    @property
    def span(self) -> int:
        """Offsets handed in from the first unfinished one on."""
        return self.next_offset - self._low

    @property
    def finished_beyond(self) -> int:
        """How many of them are finished already."""
        return self._done.count(1, self._low - self._first, max(self.next_offset - self._first, 0))

    @property
    def crowded(self) -> bool:
        """Whether finished and unfinished offsets alternate so often that metadata may soon not hold them all: what
        it does not hold is done again after a crash."""
        return self.span > CROWDED_RUNS and len(_runs(self._done, self._low - self._first)) > CROWDED_RUNS

    def is_finished(self, offset: int) -> bool:
        """Whether an earlier owner of the partition finished it, so that it is to be skipped."""
        return offset < self._restored_end and bool(self._done[offset - self._first])

    def take_all(self, offsets: Sequence[int]) -> None:
        """These records are handed in, in ascending order; what the log does not have between them is absent."""
        first, last = offsets[0], offsets[-1]
        if first > self.next_offset:
            self._absent(self.next_offset, first)
        self._grow(last)
        if last - first + 1 != len(offsets):
            expected = first
            for offset in offsets:
                if offset > expected:
                    self._absent(expected, offset)
                expected = offset + 1
        self.next_offset = last + 1
        self._advance()

    @property
    def restoring(self) -> bool:
        """Whether offsets to come may have been finished by an earlier owner."""
        return self.next_offset < self._restored_end

    def pass_over(self, offset: int) -> None:
        """Reading goes on at ``offset``: what lies before it is handed in, finished or absent."""
        if offset > self.next_offset:
            self._absent(self.next_offset, offset)
            self.next_offset = offset
            self._advance()

    def finish(self, offsets: Iterable[int]) -> None:
        """These are finished; each was taken before."""
        done, first = self._done, self._first
        for offset in offsets:
            done[offset - first] = 1
        self._advance()

    def commit(self) -> tuple[int, str]:
        """What to commit: the first unfinished offset, and what is finished beyond it as metadata."""
        return self._state(self._done, self._low)

    def commit_with(self, offsets: Iterable[int]) -> tuple[int, str]:
        """What to commit if these were finished as well; nothing is changed."""
        start = self._low - self._first
        done = self._done[start : max(self._end - self._first, start)]
        for offset in offsets:
            done[offset - self._low] = 1
        found = done.find(0)
        low = self._low + (len(done) if found < 0 else found)
        return low, kafka_metadata.encode(low, _runs(done, low - self._low))

    # -- inside -------------------------------------------------------------------------------
    @property
    def _end(self) -> int:
        return max(self.next_offset, self._restored_end)

    def _state(self, done: bytearray, low: int) -> tuple[int, str]:
        return low, kafka_metadata.encode(low, _runs(done, low - self._first))

    def _grow(self, last: int) -> None:
        missing = last + 1 - self._first - len(self._done)
        if missing > 0:
            self._done += bytes(missing)

    def _absent(self, start: int, end: int) -> None:
        self._grow(end - 1)
        self._done[start - self._first : end - self._first] = b"\x01" * (end - start)

    def _advance(self) -> None:
        """Move the first unfinished offset on; it never passes what was handed in."""
        end = self.next_offset - self._first
        found = self._done.find(0, self._low - self._first, end)
        self._low = self._first + (end if found < 0 else found)
        if self._low - self._first >= _TRIM_BYTES:
            del self._done[: self._low - self._first]
            self._first = self._low


def _runs(done: bytearray, start: int) -> list[int]:
    """Lengths of runs from ``start`` on, unfinished and finished in turn; nothing behind the last finished one."""
    runs: list[int] = []
    position, size = start, len(done)
    while position < size:
        found = done.find(len(runs) % 2 == 0, position)
        if found < 0:
            if len(runs) % 2:
                runs.append(size - position)
            break
        runs.append(found - position)
        position = found
        if len(runs) > kafka_metadata.LARGEST_METADATA_BYTES:
            break
    return runs if len(runs) % 2 == 0 else runs[:-1]
