"""A link divided among lanes in user space, where the kernel's traffic control is out of reach.

As HTB does it: a lane sends at its own rate at any time, faster while others leave room, and never above its
ceiling. It shapes only what passes through it: other traffic of the host is not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamspec.actuators.shares import LEAST_RATE, EgressShare
from streamspec.core.pacer import TokenBucket


class _LaneBuckets:
    def __init__(self, share: EgressShare) -> None:
        self.share = share
        self.own = TokenBucket(share.bytes_per_second, burst_bytes(share.bytes_per_second))
        ceiling = share.ceiling_bytes_per_second
        self.ceiling = TokenBucket(ceiling, burst_bytes(ceiling))


LATE_SECONDS = 0.05
"""A sender that wakes up no later than this after it could have sent loses nothing of its rate."""
LEAST_BURST_BYTES = 32 * 1024


def burst_bytes(rate: float) -> float:
    """What a lane may send at once after a pause: larger than in the kernel, whose timers are not late."""
    return max(float(LEAST_BURST_BYTES), rate * LATE_SECONDS)


@dataclass(frozen=True)
class LanePace:
    """Implements ``Pace`` for one lane of a pacer; all sinks of the lane share it."""

    pacer: LanePacer
    lane: str

    @property
    def bytes_per_second(self) -> float:
        """See ``Pace``."""
        share = self.pacer.shares.get(self.lane)
        return LEAST_RATE if share is None else share.bytes_per_second

    def delay_ns(self, now_ns: int, size_bytes: int) -> int:
        """See ``Pace``."""
        return self.pacer.delay_ns(self.lane, now_ns, size_bytes)


class LanePacer:
    """Says how long a lane must wait; pure, so that whoever sends decides how to wait.

    Args:
        link_bytes_per_second: of all lanes together.
    """

    def __init__(self, link_bytes_per_second: float) -> None:
        self._link = TokenBucket(link_bytes_per_second, burst_bytes(link_bytes_per_second))
        self._lanes: dict[str, _LaneBuckets] = {}

    @property
    def shares(self) -> dict[str, EgressShare]:
        """What is in force."""
        return {lane: buckets.share for lane, buckets in self._lanes.items()}

    def set_shares(self, now_ns: int, shares: Mapping[str, EgressShare]) -> None:
        """Replace the shares of these lanes; debts stay. Each share as :func:`~.shares.fit` gave it."""
        for lane, share in shares.items():
            buckets = self._lanes.get(lane)
            if buckets is None:
                self._lanes[lane] = _LaneBuckets(share)
                continue
            buckets.share = share
            buckets.own.set_rate(now_ns, share.bytes_per_second)
            buckets.ceiling.set_rate(now_ns, share.ceiling_bytes_per_second)

    def pace_of(self, lane: str) -> LanePace:
        """What a sender of this lane's results keeps to; valid as long as this pacer."""
        return LanePace(self, lane)

    def forget(self, lane: str) -> None:
        """The lane is gone."""
        self._lanes.pop(lane, None)

    def delay_ns(self, lane: str, now_ns: int, size_bytes: int) -> int:
        """Take ``size_bytes`` for this lane and return how long to wait before they are sent, in nanoseconds.
        A lane without a share has only what the others leave."""
        buckets = self._lanes.get(lane)
        free_ns = self._link.delay_ns(now_ns, size_bytes)
        if buckets is None:
            return free_ns
        capped_ns = buckets.ceiling.delay_ns(now_ns, size_bytes)
        if free_ns == 0:  # others leave room: nothing is charged to the guarantee
            return capped_ns
        return max(min(buckets.own.delay_ns(now_ns, size_bytes), free_ns), capped_ns)
