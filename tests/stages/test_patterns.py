"""A search of many spans equals a search of each span alone, for patterns and texts of any kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

import hyperscan
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamspec.core.errors import ConfigError
from streamspec.stages import patterns
from streamspec.stages.patterns import PatternSearch, without_assertions
from streamspec.stages.rules import Rule


def _rule(number: int, pattern: str, *flags: str) -> Rule:
    return Rule(number, f"rule {number}", pattern, flags, "low", f"rules.yaml:{number}")


def _compile(rule: Rule) -> hyperscan.Database:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    flags = sum(getattr(hyperscan, f"HS_FLAG_{flag.upper()}") for flag in rule.flags)
    database.compile(expressions=[rule.pattern.encode()], ids=[rule.id], elements=1, flags=[flags])
    return database


def _alone(rules: Sequence[Rule], spans: Sequence[bytes]) -> list[tuple[int, int, int, int]]:
    """The plain form: one pattern and one span at a time."""
    found = []
    for rule in rules:
        database = _compile(rule)
        for span, content in enumerate(spans):
            ends: set[int] = set()
            database.scan(content, lambda _rule, _start, end, *_, ends=ends: ends.add(end) and None)
            if ends:
                found.append((span, rule.id, min(ends), len(ends)))
    return sorted(found)


def _together(
    rules: Sequence[Rule], spans: Sequence[bytes], gap: bytes = b"", order: Sequence[int] | None = None
) -> list[tuple[int, int, int, int]]:
    """The spans laid out in memory with ``gap`` before each, in the given order."""
    order = range(len(spans)) if order is None else order
    starts, ends = np.zeros(len(spans), np.int64), np.zeros(len(spans), np.int64)
    memory = b""
    for span in order:
        memory += gap
        starts[span] = len(memory)
        memory += spans[span]
        ends[span] = len(memory)
    return PatternSearch(rules).search(np.frombuffer(memory, np.uint8), starts, ends)


ATOMS = st.sampled_from(["a", "b", "c", r"\n", ".", "[^a]", r"[\]b]", "[]c]", "[a^$]", r"\w", r"\s", r"\$", r"\^", " "])
ASSERTIONS = st.sampled_from(["^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z"])
EXPRESSIONS = st.recursive(
    st.one_of(ATOMS, ATOMS, ASSERTIONS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{0,2}", "+?"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=6,
)
FLAGS = st.lists(st.sampled_from(["caseless", "dotall", "multiline"]), unique=True, max_size=3)
SPANS = st.lists(st.text("abcA $^\n", max_size=9).map(str.encode), min_size=1, max_size=8)


@given(
    st.lists(st.tuples(EXPRESSIONS, FLAGS), min_size=1, max_size=4),
    SPANS,
    st.sampled_from([b"", b"a", b"\n", b"ab c"]),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=150)
@pytest.mark.slow
def test_any_patterns_find_what_they_find_in_each_span_alone(expressions, spans, gap, random) -> None:
    rules = []
    for number, (pattern, flags) in enumerate(expressions):
        rule = _rule(number, pattern, *flags)
        try:
            _compile(rule)
        except hyperscan.error:
            continue
        rules.append(rule)
    assume(rules)
    order = random.sample(range(len(spans)), len(spans))
    assert _together(rules, spans, gap, order) == _alone(rules, spans)


@given(EXPRESSIONS, FLAGS, st.text("abcA $^\n", max_size=9).map(str.encode))
@settings(deadline=None, max_examples=100)
def test_without_its_assertions_a_pattern_matches_wherever_it_did(pattern: str, flags: list[str], text: bytes) -> None:
    """Python's ``re`` as a second opinion; it has no ``\\z``, and its ``\\Z`` is what others call ``\\z``."""
    relaxed = without_assertions(pattern)
    assert relaxed is not None
    options = {"caseless": re.IGNORECASE, "dotall": re.DOTALL, "multiline": re.MULTILINE}
    bits = sum(options[flag] for flag in flags)
    whole, loose = (re.compile(p.replace(r"\z", r"\Z").encode(), bits) for p in (pattern, relaxed))
    for start in range(len(text) + 1):
        for end in range(start, len(text) + 1):
            if re.fullmatch(loose, text[start:end]) is None:
                assert not _spans_exactly(whole, text, start, end)


def _spans_exactly(pattern: re.Pattern[bytes], text: bytes, start: int, end: int) -> bool:
    match = pattern.match(text, start)
    return match is not None and match.end() == end


UNICODE = [_rule(1, "é+x", "utf8"), _rule(2, r"[ä-ü]{2}", "utf8"), _rule(3, "x")]


@pytest.fixture(scope="module")
def unicode_search() -> PatternSearch:
    return PatternSearch(UNICODE)


@given(st.lists(st.text("éüx .", max_size=12), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_patterns_in_unicode_are_searched_span_by_span(unicode_search: PatternSearch, texts: list[str]) -> None:
    assert unicode_search.searched_singly == 2
    spans = [text.encode() for text in texts]
    ends = np.cumsum([len(span) for span in spans])
    starts = ends - [len(span) for span in spans]
    memory = np.frombuffer(b"".join(spans), np.uint8)
    assert unicode_search.search(memory, starts, ends) == _alone(UNICODE, spans)


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=50)
def test_bytes_that_are_not_utf_8_are_only_not_found(unicode_search: PatternSearch, content: bytes) -> None:
    unicode_search.search(np.frombuffer(content, np.uint8), np.array([0]), np.array([len(content)]))


@pytest.mark.parametrize(
    "pattern",
    [r"^\w*$", r"\Q^a\E", "(?x) a # comment with [^\n", r"[\Q^]\E]a", r"^a?$"],
)
def test_what_cannot_be_swept_is_searched_span_by_span(pattern: str) -> None:
    rules = [_rule(1, pattern)]
    expected = _alone(rules, [b"^a", b"a", b"", b"]a"])
    assert expected
    assert PatternSearch(rules).searched_singly == 1
    assert _together(rules, [b"^a", b"a", b"", b"]a"]) == expected


@pytest.mark.parametrize(
    ("pattern", "relaxed"),
    [
        ("a^b", "a(?:)b"),
        (r"a\$b\^", r"a\$b\^"),
        ("[^a]b[$^]", "[^a]b[$^]"),
        (r"[[:^alpha:]^]x$", r"[[:^alpha:]^]x(?:)"),
        (r"\bword\B", "(?:)word(?:)"),
        (r"a\\b", r"a\\b"),
        (r"a\\\b", r"a\\(?:)"),
        ("(?i)^x", "(?i)(?:)x"),
        ("(?m:^x)", "(?m:(?:)x)"),
        ("(?<name>^x)(?P<n>y)", "(?<name>(?:)x)(?P<n>y)"),
        ("x(?#^ [)y$", "x(?#^ [)y(?:)"),
        (r"[\]$]x", r"[\]$]x"),
        ("[]^$]x", "[]^$]x"),
        (r"\x4$1", r"\x4(?:)1"),
        (r"\c^\c[^", r"\c^\c[(?:)"),
        (r"\p{^Lu}^", r"\p{^Lu}(?:)"),
        (r"\Ax\z|\Z", "(?:)x(?:)|(?:)"),
        (r"\Q^\E", None),
        (r"(?x)a", None),
        ("(?=a)", None),
        ("(?<!a)", None),
        ("(*UTF8)a", None),
        (r"a\Kb", None),
    ],
)
def test_assertions_become_empty_groups(pattern: str, relaxed: str | None) -> None:
    assert without_assertions(pattern) == relaxed


def test_a_rule_with_many_matches_hides_no_other_and_costs_a_bounded_number_of_calls() -> None:
    rules = [_rule(1, "a"), _rule(2, "a.*b$", "dotall"), _rule(3, "^a", "singlematch")]
    flood = b"a" * 5000 + b"b"
    found = {rule: (end, matches) for span, rule, end, matches in _together(rules, [b"x", flood]) if span == 1}
    assert found.keys() == {1, 2, 3}
    assert found[1][1] <= patterns.SPAN_MATCHES
    assert found[2] == (5001, 1)
    assert found[3] == (1, 1)


def test_a_sweep_that_floods_gives_way_to_a_search_of_every_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SWEEP_MATCHES", 0)
    rules = [_rule(1, "a"), _rule(2, "^c")]
    spans = [b"aaaaaaaaaa", b"b", b"", b"caa"]
    assert _together(rules, spans) == [(0, 1, 1, 10), (3, 1, 2, 2), (3, 2, 1, 1)]


def test_spans_may_overlap() -> None:
    memory = np.frombuffer(b"xxabcxx", np.uint8)
    search = PatternSearch([_rule(1, "abc"), _rule(2, "^bc")])
    found = search.search(memory, np.array([0, 3, 0]), np.array([7, 7, 4]))
    assert found == [(0, 1, 5, 1), (1, 2, 2, 1)]


def test_no_spans_and_no_rules_find_nothing() -> None:
    nothing = np.zeros(0, np.int64)
    assert PatternSearch([_rule(1, "a")]).search(np.zeros(0, np.uint8), nothing, nothing) == []
    assert PatternSearch([]).search(np.zeros(4, np.uint8), np.array([0]), np.array([4])) == []


@pytest.mark.parametrize("pattern", ["a(b", "^*a", "x(?=y)", r"(a)\1", "a|"])
def test_a_pattern_that_cannot_be_compiled_says_which(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"rules.yaml:2: the pattern of rule 2 cannot be compiled: "):
        PatternSearch([_rule(1, "fine"), _rule(2, pattern)])
