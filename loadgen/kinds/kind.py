"""What a kind of traffic is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Kind:
    """One kind of content.

    Attributes:
        name: as in the ``mix`` of a scenario.
        generate: ``generate(rng, size)`` makes one message of exactly ``size`` bytes, at least
            :attr:`smallest_bytes`; equal state of ``rng`` gives equal bytes.
        smallest_bytes: below this no valid message exists.
        largest_bytes: above this its format has no room.
        median_bytes: of its natural sizes, which are log-normal,
        sigma: with this deviation of the logarithm.
        description: one line for people.
    """

    name: str
    generate: Callable[[Random, int], bytes]
    smallest_bytes: int
    median_bytes: int
    sigma: float
    description: str
    largest_bytes: int = 1 << 20
