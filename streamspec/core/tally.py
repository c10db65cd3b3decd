"""Counted events with bounded reasons: nothing is lost silently, and nothing is counted per packet."""

from __future__ import annotations

from collections.abc import Mapping

MAX_REASONS = 256


class Tally:
    """Counts by reason for one component. A reason is a short literal in snake_case.

    Above :data:`MAX_REASONS` distinct reasons, further ones are counted as ``other``, so that hostile
    input cannot grow it.
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, reason: str, count: int = 1) -> None:
        """Count ``count`` events; zero leaves no entry."""
        if not count:
            return
        if reason not in self.counts and len(self.counts) >= MAX_REASONS:
            reason = "other"
        self.counts[reason] = self.counts.get(reason, 0) + count

    def merge(self, counts: Mapping[str, int]) -> None:
        """Add another tally's counts to this one."""
        for reason, count in counts.items():
            self.add(reason, count)

    def __getitem__(self, reason: str) -> int:
        return self.counts.get(reason, 0)

    def total(self) -> int:
        """The sum over all reasons."""
        return sum(self.counts.values())
