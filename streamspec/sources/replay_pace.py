"""When packets of a capture are due, and which of them leave together."""

from __future__ import annotations

import asyncio

import numpy as np

from streamspec.core.interfaces import Bytes, Clock, Rows
from streamspec.core.segment import PACKET
from streamspec.sources.pcap_kernels import schedule, shift_offsets

LONGEST_WAIT_SECONDS = 1.0
"""Then the clock is looked at again: it may be another one than the event loop's."""


class ReplayPace:
    """Gives the packets of a capture out at the speed of their recording.

    A packet is due at ``start + elapsed / speed_factor``, where ``elapsed`` sums the recorded gaps, each
    clamped to 0 and ``max_gap_ns``. The plan does not move when the pipeline is slow: late packets leave
    at once, and together, and their latency counts from when they were due.

    Args:
        clock: whose monotonic time decides.
        speed_factor: recorded seconds per second.
        max_gap_ns: longest gap, in recorded nanoseconds.
        linger_ns: how long after its first packet a segment takes further ones.
    """

    def __init__(self, clock: Clock, speed_factor: float, max_gap_ns: int, linger_ns: int) -> None:
        self._clock = clock
        self._speed = speed_factor
        self._max_gap_ns = max_gap_ns
        self._linger_ns = linger_ns
        self._start_ns: int | None = None
        self._last_ns = 0
        self._elapsed_ns = 0
        self._rows: Rows = np.zeros(0, dtype=PACKET)
        self._due_ns = np.zeros(0, dtype=np.int64)
        self._first = 0

    @property
    def left(self) -> int:
        """Packets taken and not given yet."""
        return len(self._due_ns) - self._first

    def take(self, rows: Rows, count: int) -> None:
        """Plan the first ``count`` packets of ``rows``, which must stay until they are all given."""
        self._rows, self._first = rows, 0
        self._due_ns = np.zeros(count, dtype=np.int64)
        if not count:
            return
        if self._start_ns is None:
            self._start_ns = self._clock.monotonic_ns()
            self._last_ns = int(rows[0]["timestamp_ns"])
        schedule(rows, count, self._last_ns, self._elapsed_ns, self._max_gap_ns, self._due_ns)
        self._last_ns = int(rows[count - 1]["timestamp_ns"])
        self._elapsed_ns = int(self._due_ns[-1])

    async def wait(self, stopping: asyncio.Event) -> bool:
        """Return True when the next segment is due, and False at once when ``stopping`` is set."""
        due_ns = self._clock_ns(int(self._due_ns[self._first])) + self._linger_ns
        while not stopping.is_set() and (left_ns := due_ns - self._clock.monotonic_ns()) > 0:
            try:
                async with asyncio.timeout(min(left_ns / 1e9, LONGEST_WAIT_SECONDS)):
                    await stopping.wait()
            except TimeoutError:
                pass
        return not stopping.is_set()

    def give(self, window: Bytes, payload: Bytes, rows: Rows) -> tuple[int, int]:
        """Copy what is due into a slot.

        Args:
            window: what the offsets of the rows taken refer to.
            payload, rows: the slot's, with as much room as the window and the rows taken.

        Returns:
            When its first packet was due (monotonic clock, nanoseconds), and the number of packets.
        """
        first = self._first
        first_ns = self._clock_ns(int(self._due_ns[first]))
        until_ns = max(first_ns + self._linger_ns, self._clock.monotonic_ns())
        recorded_ns = min(int((until_ns - (self._start_ns or 0)) * self._speed), 2**63 - 1)
        end = int(np.searchsorted(self._due_ns, recorded_ns, side="right"))
        end = max(end, first + 1)  # whatever the rounding says
        begin_byte = int(self._rows[first]["offset"])
        last = self._rows[end - 1]
        end_byte = int(last["offset"]) + int(last["captured_bytes"])
        payload[: end_byte - begin_byte] = window[begin_byte:end_byte]
        shift_offsets(rows, self._rows, first, end - first, begin_byte)
        self._first = end
        return first_ns, end - first

    def _clock_ns(self, elapsed_ns: int) -> int:
        return (self._start_ns or 0) + int(elapsed_ns / self._speed)
