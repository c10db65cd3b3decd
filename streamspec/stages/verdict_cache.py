"""Verdicts by payload hash: what was searched once and found clean (or not) need not be searched again.

The key is the 128-bit XXH3 of all spans and of their lengths, with a seed that each process draws for itself,
so that nobody outside can look for two payloads with one key. A verdict depends on nothing else, so results
are the same with and without.

It pays for itself or sleeps: in a window of :data:`WINDOW` lookups, of which the first half only fills it, the
search time that hits saved (``hits * mean search time of the misses``) must exceed the time spent on keys.
Else it is asleep for :data:`ASLEEP` segments, and twice as long each time in a row, up to :data:`ASLEEP_MOST`.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from streamspec.core.interfaces import Bytes
from streamspec.stages.patterns import Match, Offsets

WINDOW = 512
ASLEEP = 4096
ASLEEP_MOST = 65_536

ENTRY_BYTES = 240
"""Key, place in the table and an empty verdict, as measured with ``sys.getsizeof``."""
MATCH_BYTES = 200


Gather = Callable[[Bytes, Offsets, Offsets, Bytes], int]


@dataclass(slots=True)
class _Window:
    lookups: int = 0
    hits: int = 0
    misses: int = 0
    key_ns: int = 0
    search_ns: int = 0

    @property
    def pays(self) -> bool:
        """Whether hits have saved more than keys have cost."""
        return self.misses == 0 or self.hits * self.search_ns / self.misses > self.key_ns


class VerdictCache:
    """Least recently used goes first. Not for several threads.

    Args:
        limit_bytes: what it may hold; 0: it is off.
        clock_ns: for what it costs and saves.
    """

    def __init__(self, limit_bytes: int = 0, *, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self.limit_bytes = 0
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.asleep_segments = 0
        self._sleep = ASLEEP
        self._clock_ns = clock_ns
        self._seed = secrets.randbits(64)
        self._entries: OrderedDict[bytes, tuple[Match, ...]] = OrderedDict()
        self._buffer: Bytes = np.empty(0, dtype=np.uint8)
        self._window = _Window()
        self._gather: Gather | None = None
        self.resize(limit_bytes)

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, limit_bytes: int) -> None:
        """Another size from now on; what is beyond it is forgotten at once. The first time that there is any, the
        kernel is loaded."""
        if limit_bytes > 0 and self._gather is None:
            self._gather = _load_gather()
        self.limit_bytes = max(limit_bytes, 0)
        self._evict()

    def verdict(
        self, memory: Bytes, starts: Offsets, ends: Offsets, search: Callable[[Bytes, Offsets, Offsets], list[Match]]
    ) -> list[Match]:
        """``search(memory, starts, ends)``, or what it said of the same content before."""
        if self.asleep_segments:
            self.asleep_segments -= 1
            return search(memory, starts, ends)
        if not self.limit_bytes:
            return search(memory, starts, ends)
        clock_ns, window = self._clock_ns, self._window
        begun_ns = clock_ns()
        key = self._key(memory, starts, ends)
        known = self._entries.get(key)
        keyed_ns = clock_ns()
        window.lookups += 1
        window.key_ns += keyed_ns - begun_ns
        if known is not None:
            self._entries.move_to_end(key)
            self.hits += 1
            window.hits += 1
            found = list(known)
        else:
            found = search(memory, starts, ends)
            self.misses += 1
            window.misses += 1
            window.search_ns += clock_ns() - keyed_ns
            self._keep(key, found)
        if window.lookups == WINDOW // 2:
            self._window = _Window(lookups=window.lookups)  # the first half only fills it
        elif window.lookups >= WINDOW:
            self._judge(window)
        return found

    def _judge(self, window: _Window) -> None:
        self._window = _Window(lookups=WINDOW // 2 + 1)  # it is warm now
        if window.pays:
            self._sleep = ASLEEP
        else:
            self.asleep_segments = self._sleep
            self._sleep = min(self._sleep * 2, ASLEEP_MOST)
            self._window = _Window()

    def _key(self, memory: Bytes, starts: Offsets, ends: Offsets) -> bytes:
        import xxhash

        assert self._gather is not None, "resize loads it"
        lengths = ends - starts
        size = int(lengths.sum())
        if size > len(self._buffer):
            self._buffer = np.empty(size, dtype=np.uint8)
        size = self._gather(memory, starts, ends, self._buffer)
        key = xxhash.xxh3_128(self._buffer[:size].data, seed=self._seed)
        key.update(lengths.data)
        return key.digest()

    def _keep(self, key: bytes, found: list[Match]) -> None:
        size = ENTRY_BYTES + MATCH_BYTES * len(found)
        if size <= self.limit_bytes:
            self._entries[key] = tuple(found)
            self.used_bytes += size
            self._evict()

    def _evict(self) -> None:
        while self.used_bytes > self.limit_bytes:
            _, found = self._entries.popitem(last=False)
            self.evictions += 1
            self.used_bytes -= ENTRY_BYTES + MATCH_BYTES * len(found)


def _load_gather() -> Gather:
    """The kernel, compiled for arena memory and for what an earlier stage made (which may be read-only)."""
    from streamspec.stages.verdict_kernels import gather

    at = np.zeros(1, dtype=np.int64)
    out = np.zeros(1, dtype=np.uint8)
    for memory in (out, np.frombuffer(b"x", dtype=np.uint8)):
        gather(memory, at, at, out)
    return gather
