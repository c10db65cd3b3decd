"""A clock that only the test moves."""

from __future__ import annotations


class ManualClock:
    """Implements ``Clock``; starts at one second past both epochs' zero."""

    def __init__(self, start_ns: int = 1_000_000_000) -> None:
        self.now_ns = start_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Move time forward."""
        self.now_ns += round(seconds * 1e9)
