"""Chain factories for workers in tests and benchmarks of the engine alone."""

from __future__ import annotations

from typing import Any

from streamspec.core.interfaces import Segment, Stage, StageContext


class _Identity:
    def process(self, segment: Segment, context: StageContext) -> None:
        """Leave everything as it is."""


def identity(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """One stage that does nothing, to measure what the engine itself costs."""
    return [("identity", _Identity())]
