"""The automaton passes over nothing that Hyperscan matches, whatever the expression; what it cannot take, it leaves."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import hyperscan
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.stages import automaton as automaton_module
from streamspec.stages.automaton import Automaton, compile_rules
from streamspec.stages.patterns import without_assertions
from streamspec.stages.rules import Rule, read_rules

BASIC = Path(__file__).parents[2] / "configs" / "rules" / "basic.yaml"


def _rule(number: int, pattern: str, *flags: str) -> Rule:
    return Rule(number, "x", pattern, flags, "low", "test")


def _compiled(rules: Sequence[Rule]) -> Automaton:
    texts = {rule.id: text for rule in rules if (text := without_assertions(rule.pattern)) is not None}
    return compile_rules(rules, texts)


def _matches(rule: Rule, content: bytes) -> bool:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    flags = sum(getattr(hyperscan, f"HS_FLAG_{flag.upper()}") for flag in rule.flags)
    database.compile(expressions=[rule.pattern.encode()], ids=[0], elements=1, flags=[flags])
    hits: list[int] = []
    database.scan(content, match_event_handler=lambda *found: hits.append(found[2]))
    return bool(hits)


ATOMS = st.sampled_from(
    ["a", "b", "ab", "abc", "bca", "[ab]", "[^a]", r"\d", r"\w", r"\s", ".", r"\x61", "(?:ab|c)", "(bc|a)", r"[a-c\d]"]
)
REPEATS = st.sampled_from(["", "", "", "?", "*", "+", "{2}", "{1,3}", "{0,2}", "+?", "{6}"])
PIECES = st.lists(st.tuples(ATOMS, REPEATS).map("".join), min_size=1, max_size=6).map("".join)
PATTERNS = st.one_of(
    PIECES,
    st.tuples(PIECES, PIECES).map("|".join),
    st.tuples(PIECES, PIECES, PIECES).map(lambda p: f"{p[0]}(?:{p[1]}|{p[2]})?{p[0]}"),
    st.tuples(st.sampled_from(["^", r"\b", "(?i)", ""]), PIECES, st.sampled_from(["$", r"\B", ""])).map("".join),
)
FLAGS = st.sampled_from([(), ("caseless",), ("dotall",), ("caseless", "multiline")])
CONTENT = st.text("abcAB1 \n\x0b", max_size=24).map(str.encode)


@given(PATTERNS, FLAGS, st.lists(CONTENT, min_size=1, max_size=8))
@settings(deadline=None, max_examples=400)
def test_what_matches_is_never_passed_over(pattern: str, flags: tuple[str, ...], contents: list[bytes]) -> None:
    rule = _rule(1, pattern, *flags)
    automaton = _compiled([rule])
    assert automaton.covered | automaton.left_out.keys() == {1}
    if 1 not in automaton.covered:
        return
    try:
        found = [content for content in contents if _matches(rule, content)]
    except hyperscan.error:  # may match nothing at all, or is too large: refused when rules are read
        return
    assert [content for content in found if not automaton.holds(content)] == []


@pytest.mark.parametrize(
    ("pattern", "content"),
    [
        (r"needle\s+\x41\x42", b"xx needle \x0b AB"),
        (r"union(\s|\+|%20)+select", b"1 UNION%20%20SELECT 2"),
        (r"(passwd|pwd)=\w", b"?pwd=1"),
        (r"[^\x00-\x7f]{2}needle", b"\xff\xfeneedle"),
        (r"ne{3}dle", b"needle neeedle"),
        ("caf\u00e9s", "des caf\u00e9s".encode()),
    ],
)
def test_these_are_covered_and_found(pattern: str, content: bytes) -> None:
    rule = _rule(1, pattern, "caseless")
    automaton = _compiled([rule])
    assert automaton.covered == {1}
    assert _matches(rule, content)
    assert automaton.holds(content)
    assert not automaton.holds(b"nothing of this kind")


@pytest.mark.parametrize(
    "pattern",
    ["a", "(a|b)+c", r"(ab)\1cdef", r"a\vneedle", "x{,3}needle", "[[:alpha:]]needle", "(?=needle)n", r"\Qneedle\E",
     "(?x) need le", "needle(?:", r".{400}"],
)  # fmt: skip
def test_these_stay_with_hyperscan_and_the_reason_is_told(pattern: str) -> None:
    automaton = _compiled([_rule(1, pattern), _rule(2, "needle")])
    assert automaton.covered == {2}
    assert automaton.left_out[1]


def test_a_thousand_rules_make_a_table_of_some_megabytes() -> None:
    noise = random.Random(1)
    words = ["".join(noise.choices("abcdefghijklmnopqrstuvwxyz/._-", k=noise.randrange(6, 20))) for _ in range(1000)]
    tails = ("", r"[0-9]{2,5}", r".*end", r"\w+\s")
    rules = [
        _rule(i, re.escape(word) + tails[i % 4], *(("caseless",) if i % 2 else ())) for i, word in enumerate(words)
    ]
    automaton = _compiled(rules)
    assert not automaton.left_out
    assert automaton.size_bytes < 4 << 20
    assert all(automaton.holds(b".." + word.encode() + b"12") for word in words[::50])


def test_more_than_the_table_holds_leaves_the_rest_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automaton_module, "MOST_STATES", 2000)
    noise = random.Random(2)
    rules = [_rule(i, "".join(noise.choices("abcdefgh", k=40))) for i in range(600)]
    automaton = _compiled(rules)
    assert 0 < len(automaton.covered) < len(rules)
    assert len(automaton.table) <= 2001
    assert automaton.covered | automaton.left_out.keys() == {rule.id for rule in rules}


def test_of_the_shipped_rules_all_but_one_are_covered() -> None:
    assert _compiled(read_rules(BASIC)).left_out.keys() == {1002}
