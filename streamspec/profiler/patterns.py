"""Counts of the user's regular expressions, by Hyperscan: a feature for each group of them.

Hyperscan reports a match at each position where one can end, so ``[0-9]+`` counts the digits. What is counted of
one segment is bounded (:data:`MOST_MATCHES`), because each match calls Python.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.errors import ConfigError
from streamspec.core.features import MAX_PATTERN_GROUPS
from streamspec.core.interfaces import Bytes

MOST_MATCHES = 64
"""Matches counted in one segment, over all groups; the search ends there."""


class PatternCounter:
    """Counts matches per group. Any number of threads may use it: each has its own scratch space.

    Args:
        groups: expressions by name of their group, at most ``MAX_PATTERN_GROUPS``; PCRE syntax as Hyperscan
            takes it, over bytes, ``.`` matching newlines too.
        scan_bytes: bytes searched from the start of each segment; 0 for all.

    Attributes:
        names: of the groups, in the order of the counts.

    Raises:
        ConfigError: an expression cannot be compiled, or there are too many groups.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], *, scan_bytes: int = 4096) -> None:
        if not 0 < len(groups) <= MAX_PATTERN_GROUPS:
            raise ConfigError(
                "wrong number of pattern groups",
                where="profiler.patterns",
                value=len(groups),
                allowed=f"1 to {MAX_PATTERN_GROUPS}",
            )
        self.names = tuple(groups)
        self._scan_bytes = scan_bytes
        self._database = _compile(groups)
        self._threads = threading.local()

    def count(self, content: Bytes, out: npt.NDArray[np.float32]) -> None:
        """Count the matches in ``content`` into the first ``len(names)`` columns of ``out``; the rest become 0."""
        out[:] = 0
        if self._scan_bytes:
            content = content[: self._scan_bytes]
        if not len(content):
            return
        import hyperscan

        counts = [0] * len(self.names)
        left = [MOST_MATCHES]

        def note(group: int, start: int, end: int, flags: int, context: object) -> bool:
            counts[group] += 1
            left[0] -= 1
            return left[0] <= 0

        try:
            self._database.scan(content.data, match_event_handler=note, scratch=self._scratch())
        except hyperscan.ScanTerminated:
            pass  # enough were counted
        out[: len(counts)] = counts

    def _scratch(self) -> Any:
        scratch = getattr(self._threads, "scratch", None)
        if scratch is None:
            import hyperscan

            scratch = self._threads.scratch = hyperscan.Scratch(self._database)
        return scratch


def _compile(groups: Mapping[str, Sequence[str]]) -> Any:
    import hyperscan

    numbered = [(index, text) for index, texts in enumerate(groups.values()) for text in texts]
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    try:
        _compile_into(database, numbered)
    except hyperscan.error as error:
        for name, texts in groups.items():
            _find_culprit(name, texts)
        raise ConfigError(f"the patterns cannot be compiled together: {error}", where="profiler.patterns") from error
    return database


def _find_culprit(name: str, texts: Sequence[str]) -> None:
    """Raise for the first expression that cannot be compiled on its own."""
    import hyperscan

    for text in texts:
        try:
            _compile_into(hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK), [(0, text)])
        except hyperscan.error as error:
            raise ConfigError(
                f"the pattern cannot be compiled: {error}",
                where=f"profiler.patterns.{name}",
                value=text,
                next_step="write it without back references and look-around, and so that it cannot match nothing",
            ) from error


def _compile_into(database: Any, numbered: Sequence[tuple[int, str]]) -> None:
    import hyperscan

    database.compile(
        expressions=[text.encode() for _, text in numbered],
        ids=[group for group, _ in numbered],
        elements=len(numbered),
        flags=[hyperscan.HS_FLAG_DOTALL] * len(numbered),
    )
