"""The router: the first lane whose conditions all hold takes the segment. One of them is the predicted cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from streamspec.core.features import TYPE_NAMES
from streamspec.core.interfaces import Bytes, Rows, Slots
from streamspec.engine import kernels

NO_LIMIT = np.iinfo(np.int64).max


@dataclass(frozen=True)
class LaneRule:
    """Which segments a lane takes; an empty condition accepts everything.

    Attributes:
        lane: index of the lane.
        sources: indices of sources.
        min_bytes, max_bytes: payload range, both inclusive.
        keys: prefixes of the stream key.
        content: CONTENT_*, or -1 for all.
        types: codes of content types (``core.features.TYPE_NAMES``).
        max_work_ns: predicted cost, inclusive; what is not predicted costs 0.
    """

    lane: int
    sources: frozenset[int] = frozenset()
    min_bytes: int = 0
    max_bytes: int = int(NO_LIMIT)
    keys: tuple[bytes, ...] = ()
    content: int = -1
    types: frozenset[int] = frozenset()
    max_work_ns: float = math.inf


class RuleRouter:
    """Implements ``Router``.

    Args:
        rules: in order; a segment that none takes goes to lane 0.
        key_of: stream key of a slot; called only when a rule names keys.
        looks: ``LOOK`` rows by slot.
    """

    def __init__(self, rules: Sequence[LaneRule], key_of: Callable[[int], bytes], looks: Rows) -> None:
        self._looks = looks
        self._types: Bytes = np.zeros((len(rules), len(TYPE_NAMES)), dtype=np.uint8)
        self._keys = [rule.keys for rule in rules]
        self._any_keys = any(self._keys)
        self._key_of = key_of
        self._rules = np.zeros(len(rules), dtype=kernels.LANE_RULE)
        width = 1 + max((s for rule in rules for s in rule.sources), default=0)
        self._sources: Bytes = np.zeros((len(rules), max(width, 1024)), dtype=np.uint8)
        for row, rule, accepted, types in zip(self._rules, rules, self._sources, self._types, strict=True):
            row["lane"] = rule.lane
            row["content"] = rule.content
            row["min_bytes"], row["max_bytes"] = rule.min_bytes, rule.max_bytes
            row["max_work_ns"] = rule.max_work_ns
            row["any_type"] = not rule.types
            types[list(rule.types)] = 1
            row["any_source"] = not rule.sources
            row["has_keys"] = bool(rule.keys)
            accepted[list(rule.sources)] = 1
        self._no_keys: Bytes = np.zeros((1, 1), dtype=np.uint8)
        self._single = len(rules) == 1 and rules[0] == LaneRule(lane=0)

    def cut(self, lane: int, max_work_ns: float) -> None:
        """Let a lane take segments of up to that predicted cost from now on."""
        self._rules["max_work_ns"][self._rules["lane"] == lane] = max_work_ns

    def route(self, headers: Rows, slots: Slots) -> None:
        """Write the column ``lane``; headers come with lane 0."""
        if self._single:
            headers["lane"][slots] = 0
            return
        matches = self._match_keys(slots) if self._any_keys else self._no_keys
        kernels.route(headers, slots, self._rules, self._sources, self._types, matches, self._looks)

    def _match_keys(self, slots: Slots) -> Bytes:
        keys = [self._key_of(int(slot)) for slot in slots]
        return np.array([[key.startswith(prefixes) for key in keys] for prefixes in self._keys], dtype=np.uint8)
