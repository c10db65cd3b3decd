"""What was really sent: counts and lateness."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loadgen.kernels import LATENESS_BUCKETS, count_lateness


class Meter:
    """Counts of one run; senders add to it.

    Attributes:
        messages: taken by the kernel.
        bytes: of these messages, markers included, framing excluded.
        blocked: sends that had to wait for room in the kernel (TCP: batches; UDP: calls).
        worst_ns: the largest lateness.
        last_sent_ns: when the latest message was taken, from the start of the run.
        refused: send calls that found the port closed (ICMP port unreachable); their messages are sent again.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.blocked = 0
        self.refused = 0
        self.worst_ns = 0
        self.last_sent_ns = 0
        self._buckets = np.zeros(LATENESS_BUCKETS, dtype=np.int64)

    def note_sent(
        self,
        times_ns: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64],
        first: int,
        last: int,
        now_ns: int,
        size_bytes: int,
    ) -> None:
        """Count ``rows[first:last]`` as sent at ``now_ns``, measured against their intended ``times_ns``."""
        self.worst_ns = max(self.worst_ns, count_lateness(self._buckets, times_ns, rows, first, last, now_ns))
        self.last_sent_ns = now_ns
        self.messages += last - first
        self.bytes += size_bytes

    def lateness_seconds(self, share: float) -> float:
        """The quantile ``share`` (0 to 1) of lateness, within 3 percent; 0 when nothing was sent."""
        total = int(self._buckets.sum())
        if not total:
            return 0.0
        bucket = int(np.searchsorted(np.cumsum(self._buckets), share * total))
        return min(_bucket_end_ns(bucket), self.worst_ns) / 1e9


def _bucket_end_ns(bucket: int) -> int:
    shift = max(0, bucket // 32 - 1)
    return (bucket - 32 * shift + 1) << shift
