"""Division of a link among lanes: pure arithmetic, all rates in bytes per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REST_RATIO = 0.01
"""Share of the link that everything that belongs to no lane is sure of (ARP, ssh, other processes)."""
LEAST_RATE = 1000.0
QUANTUM_BYTES = (2_000, 60_000)
"""Bounds of what a class sends in one turn when classes share what is left over: HTB warns outside of
1000 to 200000, and below one frame it would starve."""


@dataclass(frozen=True, slots=True)
class EgressShare:
    """What a lane gets of the link.

    Attributes:
        bytes_per_second: is sure of this much; 0: of nothing in particular.
        ceiling_bytes_per_second: never gets more, even of what others leave; 0: the whole link.
        urgency: smaller gets first what others leave over, 0 to 7.
    """

    bytes_per_second: float = 0.0
    ceiling_bytes_per_second: float = 0.0
    urgency: int = 0


def fit(desired: Mapping[str, EgressShare], link_bytes_per_second: float) -> dict[str, EgressShare]:
    """What can be promised: ceilings up to the link; guarantees that add up to no more than the link less
    :data:`REST_RATIO`, scaled down together where they ask for more."""
    available = link_bytes_per_second * (1 - REST_RATIO)
    ceilings = {
        lane: min(max(share.ceiling_bytes_per_second, LEAST_RATE), link_bytes_per_second)
        if share.ceiling_bytes_per_second
        else link_bytes_per_second
        for lane, share in desired.items()
    }
    rates = {lane: min(max(share.bytes_per_second, LEAST_RATE), ceilings[lane]) for lane, share in desired.items()}
    scale = min(1.0, available / max(sum(rates.values()), 1e-9))
    return {
        lane: EgressShare(rates[lane] * scale, ceilings[lane], min(max(share.urgency, 0), 7))
        for lane, share in desired.items()
    }


def quantum_bytes(rate: float, link_bytes_per_second: float) -> int:
    """In proportion to the guarantee, so that what is left over is divided in the same proportion."""
    low, high = QUANTUM_BYTES
    return int(min(max(rate / link_bytes_per_second * high, low), high))


def burst_bytes(rate: float) -> int:
    """What passes at once: 2 ms of the rate, and at least two frames, so that timers need not be finer."""
    return int(max(3_200, rate * 0.002))
