"""The open loop: take what is due, hand it to the sender, wait for the next due time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from loadgen.clock import Clock
from loadgen.schedule import Block

BATCH_MESSAGES = 256
LONGEST_NAP_NS = 50_000_000
"""So that a stop is seen soon."""
SHORTEST_NAP_NS = 100_000
"""Messages due within this time go out together: at high rates a wake-up each would cost more than sending."""
PROGRESS_NS = 1_000_000_000


class Sender(Protocol):
    """Puts messages on the wire."""

    @property
    def waiting(self) -> bool:
        """Whether something taken earlier is still to be handed to the kernel."""

    def begin(self, start_ns: int, epoch_ns: int) -> None:
        """The run starts: monotonic and wall clock at time zero of the blocks."""

    def take(self, block: Block, first: int, last: int) -> int:
        """Send rows ``first`` to ``last``, or as many from the front as there is room for; says how many."""

    def warm(self, block: Block) -> None:
        """Load what sending needs, before the clock starts."""

    def flush(self) -> None:
        """Go on with what is waiting, without blocking."""

    def wait(self, seconds: float) -> None:
        """Return when the kernel takes more, at the latest after ``seconds``."""


class Driver:
    """Runs blocks through a sender at their times. A late message is sent at once, and none is skipped.

    Args:
        paced: false sends as fast as the sender takes; each message is then due when it is sent.
        stopped: asked often; true ends the run.
        on_progress: called about every second.
    """

    def __init__(
        self,
        blocks: Iterator[Block],
        sender: Sender,
        clock: Clock,
        *,
        stopped: Callable[[], bool],
        on_progress: Callable[[], None] | None = None,
        paced: bool = True,
    ) -> None:
        self._blocks = blocks
        self._sender = sender
        self._clock = clock
        self._stopped = stopped
        self._on_progress = on_progress
        self._paced = paced
        self._following: Block | None = None
        self._start_ns: int | None = None
        self._progress_due_ns = PROGRESS_NS
        self.phase = ""
        self.taken_messages = 0
        """Messages that the sender accepted; those due but not accepted at a stop were never numbered."""
        self.kind_messages: dict[str, int] = {}
        self.last_due_ns = 0
        """Intended time of the last message, from the start."""

    def elapsed_ns(self) -> int:
        """Time since the start of the run, 0 before it."""
        return 0 if self._start_ns is None else self._clock.monotonic_ns() - self._start_ns

    def run(self) -> None:
        """Send everything; returns at the end of the blocks, or soon after a stop."""
        self._following = next(self._blocks, None)  # made before the clock starts
        if self._following is not None:
            self._sender.warm(self._following)
        self._start_ns = self._clock.monotonic_ns()
        self._sender.begin(self._start_ns, self._clock.time_ns())
        while not self._stopped():
            block = self._following if self._following is not None else next(self._blocks, None)
            self._following = None
            if block is None:
                return
            self.phase = block.phase
            taken = self._run_block(block)
            self._count(block, taken)

    def _run_block(self, block: Block) -> int:
        position = 0
        while position < len(block) and not self._stopped():
            now_ns = self.elapsed_ns()
            self._report(now_ns)
            if self._sender.waiting:
                self._sender.flush()
            due = self._due(block, position, now_ns)
            taken = self._sender.take(block, position, due) if due > position else 0
            if taken:
                position += taken
                self.taken_messages += taken
                self.last_due_ns = int(block.times_ns[position - 1])
            else:
                self._rest(now_ns, int(block.times_ns[position]))
        return position

    def _due(self, block: Block, position: int, now_ns: int) -> int:
        """End of the rows that are due, at most a batch from ``position``."""
        end = min(position + BATCH_MESSAGES, len(block))
        if not self._paced:
            block.times_ns[position:end] = now_ns
            return end
        return position + int(np.searchsorted(block.times_ns[position:end], now_ns, side="right"))

    def _rest(self, now_ns: int, due_ns: int) -> None:
        if self._following is None and due_ns - now_ns > SHORTEST_NAP_NS:
            self._following = next(self._blocks, None)
        until_ns = min(max(due_ns, now_ns + SHORTEST_NAP_NS), now_ns + LONGEST_NAP_NS, self._progress_due_ns)
        if self._sender.waiting:
            self._sender.wait((until_ns - now_ns) / 1e9)
        else:
            self._clock.sleep_until(self._clock.monotonic_ns() + until_ns - now_ns)

    def _report(self, now_ns: int) -> None:
        if now_ns >= self._progress_due_ns:
            self._progress_due_ns = now_ns - now_ns % PROGRESS_NS + PROGRESS_NS
            if self._on_progress is not None:
                self._on_progress()

    def _count(self, block: Block, taken: int) -> None:
        counts = np.bincount(block.pool.kinds[block.messages[:taken]], minlength=len(block.pool.kind_names))
        for name, count in zip(block.pool.kind_names, counts.tolist(), strict=True):
            if count:
                self.kind_messages[name] = self.kind_messages.get(name, 0) + count
