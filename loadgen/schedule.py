"""The open-loop schedule: which message goes out on which key at what time, computed before anything is sent.

Times never depend on how sending goes. Blocks are made one ahead, because a whole run would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadgen.pool import Pool, ScenarioPool
from loadgen.scenario import Phase, Rate, Scenario

BLOCK_MESSAGES = 4096
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Messages in order of time.

    Attributes:
        times_ns: int64, intended send times from the start of the run, ascending.
        keys: int32, stream key of each.
        messages: int32, index into :attr:`pool`.
        phase: name of the phase.
    """

    times_ns: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int32]
    messages: npt.NDArray[np.int32]
    pool: Pool
    phase: str

    def __len__(self) -> int:
        return len(self.times_ns)


def scenario_blocks(
    scenario: Scenario, pool: ScenarioPool, *, marker_bytes: int, elapsed_ns: Callable[[], int] | None = None
) -> Iterator[Block]:
    """The blocks of all phases.

    Args:
        marker_bytes: what is added to each body; counts for rates in bytes.
        elapsed_ns: for unpaced runs, the time since the start: a phase then lasts until it is over instead of
            as many messages as its rate gives, and the times in the blocks mean nothing.
    """
    start_ns = 0
    for index, phase in enumerate(scenario.phases):
        end_ns = start_ns + round(phase.seconds * 1e9)
        source = _PhaseSchedule(phase, pool, [scenario.seed, index], marker_bytes)
        if elapsed_ns is not None:
            while elapsed_ns() < end_ns:
                yield source.next_block(start_ns)
        else:
            yield from _until(source, start_ns, end_ns)
        start_ns = end_ns


def _until(source: _PhaseSchedule, start_ns: int, end_ns: int) -> Iterator[Block]:
    while True:
        block = source.next_block(start_ns)
        inside = int(np.searchsorted(block.times_ns, end_ns))
        if inside == len(block):
            yield block
            continue
        if inside:
            yield Block(block.times_ns[:inside], block.keys[:inside], block.messages[:inside], block.pool, block.phase)
        return


class _PhaseSchedule:
    """Draws the messages, keys and times of one phase, block by block."""

    def __init__(self, phase: Phase, pool: ScenarioPool, seed: list[int], marker_bytes: int) -> None:
        self._phase = phase
        self._pool = pool.pool
        self._rng = np.random.default_rng(seed)
        self._sizes = (pool.pool.lengths + marker_bytes).astype(np.float64)
        self._warp = phase.arrivals.warp(np.random.default_rng([*seed, 1]), phase.seconds)
        self._ranges = [pool.of(kind, phase.size_of(kind)) for kind in phase.mix]
        weights = np.array(list(phase.mix.values()))
        self._kind_shares = np.cumsum(weights / weights.sum())
        means = np.array([self._sizes[r.start : r.stop].mean() for r in self._ranges])
        self._mean_size = float(weights / weights.sum() @ means)
        popularity = np.arange(1, phase.keys.count + 1) ** -phase.keys.skew
        self._key_shares = np.cumsum(popularity / popularity.sum())
        self._next = [0] * len(self._ranges)
        self._drawn = 0
        self._operational = 0.0

    def next_block(self, start_ns: int) -> Block:
        """The next messages; times from ``start_ns`` on, not yet cut at the end of the phase."""
        messages = self._draw_messages()
        keys = self._pick(self._key_shares)
        seconds = self._warp(self._operational_seconds(messages))
        self._drawn += BLOCK_MESSAGES
        times_ns = start_ns + (seconds * 1e9).astype(np.int64)
        return Block(times_ns, keys, messages, self._pool, self._phase.name)

    def _pick(self, shares: Floats) -> npt.NDArray[np.int32]:
        picked = np.searchsorted(shares, self._rng.random(BLOCK_MESSAGES), side="right")
        return np.minimum(picked, len(shares) - 1).astype(np.int32)

    def _draw_messages(self) -> npt.NDArray[np.int32]:
        """Kinds by chance, and of each kind the next in its range: no message repeats until all were sent."""
        kinds = self._pick(self._kind_shares)
        messages = np.empty(BLOCK_MESSAGES, dtype=np.int32)
        for kind, choice in enumerate(self._ranges):
            rows = np.flatnonzero(kinds == kind)
            messages[rows] = choice.start + (self._next[kind] + np.arange(len(rows))) % len(choice)
            self._next[kind] = (self._next[kind] + len(rows)) % len(choice)
        return messages

    def _operational_seconds(self, messages: npt.NDArray[np.int32]) -> Floats:
        """Times at the mean rate, before the warp."""
        rate = self._phase.rate
        if self._phase.arrivals.random_gaps:
            mean_gap = 1 / rate.messages_per_second if rate.messages_per_second else self._mean_size / _bytes(rate)
            times: Floats = self._operational + np.cumsum(self._rng.standard_exponential(BLOCK_MESSAGES)) * mean_gap
            self._operational = float(times[-1])
            return times
        if rate.messages_per_second:
            return (self._drawn + np.arange(BLOCK_MESSAGES)) / rate.messages_per_second
        ends = self._operational + np.cumsum(self._sizes[messages]) / _bytes(rate)
        times = np.concatenate([[self._operational], ends[:-1]])
        self._operational = float(ends[-1])
        return times


def _bytes(rate: Rate) -> float:
    assert rate.bytes_per_second is not None
    return rate.bytes_per_second
