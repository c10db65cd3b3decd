"""Counts of the user's patterns, bounded whatever the content."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.errors import ConfigError
from streamspec.core.features import MAX_PATTERN_GROUPS
from streamspec.profiler.patterns import MOST_MATCHES, PatternCounter

GROUPS = {"letters": ["ab", "ba"], "digits": ["[0-9]"], "high": [r"\xff"]}
COUNTER = PatternCounter(GROUPS)


def count(counter: PatternCounter, content: bytes) -> list[int]:
    out = np.full(MAX_PATTERN_GROUPS, np.nan, dtype=np.float32)
    counter.count(np.frombuffer(bytearray(content), dtype=np.uint8), out)
    return out.astype(int).tolist()


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([b"a", b"b", b"7", b"\xff", b"\n", b"\0"]), max_size=60).map(b"".join))
def test_counts_equal_those_of_the_standard_library(content: bytes) -> None:
    expected = [sum(len(re.findall(b"(?=" + p.encode() + b")", content)) for p in ps) for ps in GROUPS.values()]
    assert count(COUNTER, content) == expected + [0] * (MAX_PATTERN_GROUPS - 3)


def test_the_search_ends_after_a_bounded_number_of_matches() -> None:
    assert sum(count(COUNTER, b"ab7" * 100_000)) == MOST_MATCHES


def test_only_the_beginning_is_searched_unless_all_is_asked_for() -> None:
    content = bytes(5000) + b"7"
    assert count(COUNTER, content)[1] == 0
    assert count(PatternCounter(GROUPS, scan_bytes=0), content)[1] == 1


def test_a_pattern_that_cannot_be_compiled_is_named() -> None:
    with pytest.raises(ConfigError, match=r"profiler\.patterns\.wrong.*\(unclosed"):
        PatternCounter({"fine": ["a"], "wrong": ["b", "(unclosed"]})


def test_a_pattern_that_hyperscan_does_not_support_is_named() -> None:
    with pytest.raises(ConfigError, match=r"profiler\.patterns\.back"):
        PatternCounter({"back": [r"(a)\1"]})


@pytest.mark.parametrize("groups", [0, MAX_PATTERN_GROUPS + 1])
def test_the_number_of_groups_is_bounded(groups: int) -> None:
    with pytest.raises(ConfigError, match="number of pattern groups"):
        PatternCounter({f"group_{index}": ["a"] for index in range(groups)})
