r"""Patterns searched in many spans of memory at once, as if each span were searched on its own.

A match inside a span is also one in the stretch of memory that holds all spans, as long as the pattern does not
look at what surrounds the match. So one *sweep* over the stretch says in which spans a match may end, and only
those are searched on their own. Patterns with assertions (``^ $ \b \B \A \z \Z``) are swept with the assertions
left out: that matches wherever the pattern does and perhaps elsewhere, and the search of the span decides. What
cannot be swept (matches nothing at all without its assertions, UTF-8, syntax that is not certain to be read
alike here) is searched span by span.

Each match that Hyperscan reports calls Python, so what hostile input can cause is bounded: a sweep ends after
:data:`SWEEP_MATCHES` and two more per span, the search of one span after :data:`SPAN_MATCHES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.core.errors import ConfigError
from streamspec.core.interfaces import Bytes
from streamspec.stages.automaton import Automaton, compile_rules
from streamspec.stages.rules import Rule

Offsets = npt.NDArray[np.int64]
Match = tuple[int, int, int, int]
"""``(span, rule, end of the first match counted from the start of the span, matches)``"""

SWEEP_MATCHES = 32
"""With two more per span: matches of a sweep after which it is no dearer to search every span."""
SPAN_MATCHES = 64
"""Matches counted in one span; beyond them each rule is only asked whether it matches."""

_TOKEN = re.compile(
    r"""(?P<unclear> \\[GK] | \(\* | \(\?(?!:|[ims-]+[:)]|P?<\w|\#) )
      | (?P<assertion> \\[bBAzZ] | [$^] )
      | \\c. | \\[pP]\{[^}]*\} | \\.
      | \(\?\#[^)]*\)
      | \[ \^? \]? (?: \[:\^?\w+:\] | \\. | [^\]\\] )* \]
      | .""",
    re.VERBOSE | re.DOTALL,
)
_QUOTING = re.compile(r"\\[QE]")


def without_assertions(pattern: str) -> str | None:
    """The pattern with an empty group in place of each assertion. None when its syntax is not certain here."""
    if _QUOTING.search(pattern):
        return None
    parts = []
    for token in _TOKEN.finditer(pattern):
        if token["unclear"]:
            return None
        parts.append("(?:)" if token["assertion"] else token[0])
    return "".join(parts)


class PatternSearch:
    """Rules compiled for searching spans. One search at a time: they share scratch space.

    Raises:
        ConfigError: a pattern cannot be compiled; ``where`` is the ``file:line`` of its rule.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        texts = {rule.id: text for rule in rules if (text := _relaxed(rule)) is not None}
        self._rules = rules
        self._texts = texts
        self._swept = _Patterns.of([rule for rule in rules if rule.id in texts], texts)
        self._single = _Patterns.of([rule for rule in rules if rule.id not in texts])
        # What the sweep's patterns only suspect, because assertions are left out, these decide.
        asserting = [rule for rule in rules if texts.get(rule.id, rule.pattern) != rule.pattern]
        self._asserting = _Patterns.of(asserting)
        self._suspected = {rule.id for rule in asserting}
        self._once = {rule.id for rule in rules if "singlematch" in rule.flags}
        self._uncovered: _Patterns | None = None

    @property
    def searched_singly(self) -> int:
        """Number of rules that cost a call per span because they cannot be swept."""
        return len(self._single.rules) if self._single is not None else 0

    def automaton(self) -> Automaton:
        """The rules as an automaton for a device, whose suspects :meth:`search` takes from then on."""
        automaton = compile_rules(self._rules, self._texts)
        uncovered = [rule for rule in self._rules if rule.id in self._texts and rule.id not in automaton.covered]
        self._uncovered = _Patterns.of(uncovered, self._texts)
        return automaton

    def search(self, memory: Bytes, starts: Offsets, ends: Offsets, suspects: Offsets | None = None) -> list[Match]:
        """All matches in the spans ``memory[starts[i]:ends[i]]``, ordered by span and rule. Spans may overlap and
        lie in any order.

        ``suspects``: spans in which rules that :meth:`automaton` covers may match, in place of a sweep for them. What
        is found is the same.
        """
        found: list[Match] = []
        view = memory.data
        if self._swept is not None:
            candidates: Iterable[int]
            if suspects is None:
                candidates = self._candidates(self._swept, memory, starts, ends)
            else:
                candidates = set(suspects.tolist())
                if self._uncovered is not None:
                    candidates.update(self._candidates(self._uncovered, memory, starts, ends))
            for span in candidates:
                self._add(found, span, self._search_swept(self._swept, view[starts[span] : ends[span]]))
        if self._single is not None:
            for span, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
                self._add(found, span, self._single.search(view[start:end]))
        return sorted(found)

    def _search_swept(self, patterns: _Patterns, content: memoryview) -> dict[int, set[int]]:
        hits = patterns.search(content)
        suspected = self._suspected & hits.keys()
        if suspected and self._asserting is not None:
            for rule in suspected:
                del hits[rule]
            hits |= self._asserting.search(content)
        return hits

    def _add(self, found: list[Match], span: int, hits: dict[int, set[int]]) -> None:
        for rule, ends in hits.items():
            found.append((span, rule, min(ends), 1 if rule in self._once else len(ends)))

    @staticmethod
    def _candidates(patterns: _Patterns, memory: Bytes, starts: Offsets, ends: Offsets) -> Iterable[int]:
        spans = len(starts)
        if spans < 2:
            return range(spans)
        low, high = int(starts.min()), int(ends.max())
        most = SWEEP_MATCHES + 2 * spans
        hits = patterns.ends(memory[low:high].data, most)
        if not hits:
            return ()
        if len(hits) >= most:
            return range(spans)
        at = np.unique(np.array(hits, dtype=np.int64)) + low
        # A span (start, end] holds a hit when there are more hits up to its end than up to its start.
        held = np.searchsorted(at, ends, side="right") > np.searchsorted(at, starts, side="right")
        candidates: list[int] = np.flatnonzero(held).tolist()
        return candidates


class _Patterns:
    """Compiled rules, at least one.

    Args:
        rules: what to compile.
        texts: expressions by rule that stand for the rules' own.
    """

    def __init__(self, rules: Sequence[Rule], texts: Mapping[int, str]) -> None:
        self.rules = rules
        self._texts = texts
        self._every = _compile(rules, texts, once=False)
        self._first: Any = None

    @classmethod
    def of(cls, rules: Sequence[Rule], texts: Mapping[int, str] | None = None) -> _Patterns | None:
        """The compiled rules, None for no rules."""
        return cls(rules, texts or {}) if rules else None

    def ends(self, content: memoryview, most: int) -> list[int]:
        """Where matches end, at most ``most`` of them."""
        ends: list[int] = []

        def note(rule: int, start: int, end: int, flags: int, context: object) -> bool:
            ends.append(end)
            return len(ends) >= most

        _scan(self._every, content, note)
        return ends

    def search(self, content: memoryview) -> dict[int, set[int]]:
        """Where matches end, by rule; :data:`SPAN_MATCHES` of them, and at least one of each rule that matches."""
        hits: list[tuple[int, int]] = []

        def note(rule: int, start: int, end: int, flags: int, context: object) -> bool:
            hits.append((rule, end))
            return len(hits) >= SPAN_MATCHES

        _scan(self._every, content, note)
        if len(hits) >= SPAN_MATCHES:
            self._note_first(content, hits)
        ends: dict[int, set[int]] = {}
        for rule, end in hits:
            ends.setdefault(rule, set()).add(end)
        return ends

    def _note_first(self, content: memoryview, hits: list[tuple[int, int]]) -> None:
        """Add one match per rule, so that a rule with thousands of them hides no other. What that takes is
        compiled when it is first needed, which in most streams is never."""
        if self._first is None:
            self._first = _compile(self.rules, self._texts, once=True)
        _scan(self._first, content, lambda rule, start, end, flags, context: hits.append((rule, end)))


def _relaxed(rule: Rule) -> str | None:
    """The expression that finds ``rule`` in a sweep, or None when it must be searched span by span."""
    # What Hyperscan makes of bytes that are not UTF-8 is not defined, and a sweep crosses headers.
    if {"utf8", "ucp"} & set(rule.flags):
        return None
    text = without_assertions(rule.pattern)
    if text is None or text == rule.pattern:
        return text
    import hyperscan

    try:
        _compile_into(hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK), [rule], {rule.id: text}, once=False)
    except hyperscan.error:
        return None
    return text


def _compile(rules: Sequence[Rule], texts: Mapping[int, str], *, once: bool) -> Any:
    """A Hyperscan database in block mode that reports each match, or ``once`` per rule."""
    import hyperscan

    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    try:
        _compile_into(database, rules, texts, once=once)
    except hyperscan.error as error:
        for rule in rules:
            try:
                _compile_into(hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK), [rule], texts, once=once)
            except hyperscan.error as own:
                raise ConfigError(
                    f"the pattern of rule {rule.id} cannot be compiled: {own}", where=rule.place, value=rule.pattern
                ) from own
        raise ConfigError(f"the rules cannot be compiled together: {error}", where=rules[0].place) from error
    return database


def _compile_into(database: Any, rules: Sequence[Rule], texts: Mapping[int, str], *, once: bool) -> None:
    import hyperscan

    names = [set(rule.flags) - {"singlematch"} | ({"singlematch"} if once else set()) for rule in rules]
    database.compile(
        expressions=[texts.get(rule.id, rule.pattern).encode() for rule in rules],
        ids=[rule.id for rule in rules],
        elements=len(rules),
        flags=[sum(getattr(hyperscan, f"HS_FLAG_{name.upper()}") for name in flags) for flags in names],
    )


def _scan(database: Any, content: memoryview, note: Callable[[int, int, int, int, object], Any]) -> None:
    import hyperscan

    try:
        database.scan(content, note)
    except hyperscan.ScanTerminated:
        pass  # the callback has had enough
