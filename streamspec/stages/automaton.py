"""Many rules as one small automaton that says in which spans a rule *may* match; what it passes over, none matches.

For a prefilter it is enough to find a *factor* of each rule: a short sequence of sets of bytes that every match holds
somewhere (as in Navarro and Raffinot, "Flexible Pattern Matching in Strings", 2002, and Hyperscan, NSDI'19). All
factors together become the automaton of Aho and Corasick (1975), over sets of bytes, determinised. Factors are at most
:data:`FACTOR_BYTES` long, so an automaton that begins in the middle of a span knows after so many bytes all that one
from its start would know: a span can be searched in pieces side by side.

A rule without a factor of :data:`LEAST_BITS`, with syntax that is not certain to be read as Hyperscan reads it, or for
which there is no room in the table, is left out, with the reason.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from streamspec.stages.rules import Rule

FACTOR_BYTES = 16
"""Longest factor; pieces of a span overlap by one less."""
LEAST_BITS = 16.0
"""A factor found by chance in more than one of 2**16 places of random bytes would pass almost every packet."""
ENOUGH_BITS = 96.0
"""More than this is not rarer in practice."""
MOST_STATES = 60_000
WIDTHS = (64, 16, 2)
"""Largest set of bytes in a factor; the next one is taken when the automaton would have too many states."""
MOST_COPIES = 4
"""Copies of a repeated part that are looked at."""
MOST_READINGS = 64
"""Alternatives that are multiplied out; where there are more, each is looked at on its own."""

Mask = int
"""Set of byte values, bit by bit."""
Factor = tuple[Mask, ...]
Part = Mask | list[list[Any]] | None
"""A set of bytes, alternatives (each a list of parts), or a gap."""

_ALL: Mask = (1 << 256) - 1
_UNCLEAR = re.compile(r"\{,|\[\[|\\v|\(\?[^:imsP#)-]|\\[pPXRKCGhHQE]")
"""What Python's parser may take, and otherwise than PCRE does."""


@dataclass(frozen=True, eq=False)
class Automaton:
    """Transitions by ``table[state, classes[byte]]``, from state 0; the last state is final and is not left.

    Attributes:
        classes: ``uint8 (256,)``.
        table: ``uint16 (states, classes)``.
        covered: rules that it finds.
        left_out: why not, by rule.
    """

    classes: npt.NDArray[np.uint8]
    table: npt.NDArray[np.uint16]
    covered: frozenset[int]
    left_out: Mapping[int, str]

    @property
    def final(self) -> int:
        """The state of "some rule may match"."""
        return len(self.table) - 1

    @property
    def size_bytes(self) -> int:
        """Device memory that it takes."""
        return self.table.nbytes + self.classes.nbytes

    def holds(self, content: bytes) -> bool:
        """Whether some factor occurs; the plain form of what the kernel does."""
        state = 0
        for value in content:
            state = int(self.table[state, self.classes[value]])
        return state == self.final


def compile_rules(rules: Sequence[Rule], texts: Mapping[int, str]) -> Automaton:
    """The automaton of the rules.

    Args:
        rules: all of them.
        texts: expressions without assertions of those that can be swept, by rule.
    """
    left_out = {rule.id: "is searched packet by packet" for rule in rules if rule.id not in texts}
    parsed: dict[int, list[Part]] = {}
    for rule in rules:
        if rule.id in texts:
            try:
                parsed[rule.id] = _parse(texts[rule.id], rule.flags)
            except _Unclear as error:
                left_out[rule.id] = str(error)
    factors: dict[int, list[Factor]] = {}
    built: Tables | None = None
    for width in WIDTHS:
        before, factors = factors, {rule: found for rule, parts in parsed.items() if (found := _factors(parts, width))}
        if factors == before and factors:
            continue
        built = _determinise([factor for found in factors.values() for factor in found], MOST_STATES)
        if built is not None:
            break
    if built is None:
        built, factors = _as_many_as_fit(factors)
    for rule_id in parsed.keys() - factors.keys():
        left_out[rule_id] = "has nothing rare enough to look for, or the table has no room"
    return Automaton(*built, frozenset(factors), left_out)


# -- reading expressions ----------------------------------------------------------------------
class _Unclear(Exception):
    """This expression is not certain to be read here as Hyperscan reads it."""


def _parse(text: str, flags: Sequence[str]) -> list[Part]:
    if _UNCLEAR.search(text):
        raise _Unclear("has syntax that is only read by Hyperscan")
    parser: Any = importlib.import_module("re._parser")
    given = re.IGNORECASE * ("caseless" in flags) | re.DOTALL * ("dotall" in flags)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = parser.parse(text.encode(), int(given))
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise _Unclear(f"has syntax that is only read by Hyperscan ({error})") from error
    if tree.state.flags & re.VERBOSE:
        raise _Unclear("has syntax that is only read by Hyperscan (x)")
    return _parts(tree, bool(tree.state.flags & re.IGNORECASE))


def _parts(tree: Any, caseless: bool) -> list[Part]:
    """A sequence; assertions match nothing and are passed over."""
    parts: list[Part] = []
    for operator, argument in tree:
        name = str(operator)
        if name == "AT":
            continue
        if name == "BRANCH":
            parts.append([_parts(branch, caseless) for branch in argument[1]])
        elif name == "SUBPATTERN":
            _, added, removed, inner = argument
            own = (caseless or bool(added & re.IGNORECASE)) and not removed & re.IGNORECASE
            parts += _parts(inner, own)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            low, high, inner = argument
            parts += _parts(inner, caseless) * min(low, MOST_COPIES)
            if (low, high) == (0, 1):
                parts.append([[], _parts(inner, caseless)])
            elif high != low or low > MOST_COPIES:
                parts.append(None)
        else:
            parts.append(_set(name, argument, caseless))
    return parts


def _set(name: str, argument: Any, caseless: bool) -> Mask:
    if name == "LITERAL":
        return _cased(1 << int(argument), caseless)
    if name == "NOT_LITERAL":
        return _ALL & ~(1 << int(argument))
    if name == "ANY":
        return _ALL
    if name != "IN":
        raise _Unclear(f"has {name.lower().replace('_', ' ')}")
    mask, negated = 0, False
    for operator, value in argument:
        kind = str(operator)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            mask |= 1 << value
        elif kind == "RANGE":
            mask |= (1 << value[1] + 1) - (1 << value[0])
        else:
            mask |= _category(str(value), negated)
    return _ALL & ~mask if negated else _cased(mask, caseless)


def _cased(mask: Mask, caseless: bool) -> Mask:
    if caseless:
        for upper in range(0x41, 0x5B):
            both = 1 << upper | 1 << upper + 32
            if mask & both:
                mask |= both
    return mask


_DIGITS = sum(1 << value for value in b"0123456789")
_WORDS = _DIGITS | sum(1 << value for value in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_SPACES = sum(1 << value for value in b"\t\n\f\r ")
_TABULATION = 1 << 0x0B
"""Whether ``\\s`` holds it differs between versions of PCRE: it is taken as is safe."""


def _category(name: str, negated: bool) -> Mask:
    spaces = _SPACES if negated else _SPACES | _TABULATION
    others = _SPACES | _TABULATION if negated else _SPACES
    masks = {
        "CATEGORY_DIGIT": _DIGITS,
        "CATEGORY_NOT_DIGIT": _ALL & ~_DIGITS,
        "CATEGORY_WORD": _WORDS,
        "CATEGORY_NOT_WORD": _ALL & ~_WORDS,
        "CATEGORY_SPACE": spaces,
        "CATEGORY_NOT_SPACE": _ALL & ~others,
    }
    if name not in masks:
        raise _Unclear(f"has {name.lower()}")
    return masks[name]


# -- factors ----------------------------------------------------------------------------------
def _factors(parts: Sequence[Part], width: int) -> list[Factor]:
    """Of which every match holds at least one; empty when none is rare enough."""
    bits, found = _best(parts, width)
    return found if bits >= LEAST_BITS else []


def _best(parts: Sequence[Part], width: int) -> tuple[float, list[Factor]]:
    """The rarest choice, and how rare its most common factor is, in bits."""
    best: tuple[float, list[Factor]] = (0.0, [])
    runs: list[Factor] = [()]  # what ends here may read as any of these
    for part in (*parts, None):
        longer = _joined(runs, part, width)
        if longer is not None:
            runs = longer
            continue
        best = max(best, _rarest(runs), key=_first)
        runs = [()]
        if isinstance(part, list):
            branches = [_best(branch, width) for branch in part]
            together = [factor for _, factors in branches for factor in factors]
            best = max(best, (min(bits for bits, _ in branches), together), key=_first)
    return best


def _joined(runs: Sequence[Factor], part: Part, width: int) -> list[Factor] | None:
    """The runs with one more part; None when it is a gap, too wide, or there would be too many of them."""
    if part is None:
        return None
    if isinstance(part, int):
        return [(*run, part) for run in runs] if 0 < part.bit_count() <= width else None
    endings: list[Factor] = []
    for branch in part:
        tails: list[Factor] | None = [()]
        for inner in branch:
            tails = None if tails is None else _joined(tails, inner, width)
        if tails is None:
            return None
        endings += tails
    if len(endings) * len(runs) > MOST_READINGS or not any(endings):
        return None
    return [run + ending for run in runs for ending in endings]


def _rarest(runs: Sequence[Factor]) -> tuple[float, list[Factor]]:
    """For each run its rarest window; as rare as the most common of them."""
    if not all(runs):
        return 0.0, []
    chosen = [max(((_bits(factor), factor) for factor in _windows(run)), key=_first) for run in runs]
    return min(bits for bits, _ in chosen), [factor for _, factor in chosen]


def _windows(run: Factor) -> list[Factor]:
    return [run[first : first + FACTOR_BYTES] for first in range(max(len(run) - FACTOR_BYTES, 0) + 1)]


def _first(choice: tuple[float, Any]) -> float:
    return choice[0]


def _bits(factor: Factor) -> float:
    bits: float = sum(8.0 - math.log2(mask.bit_count()) for mask in factor)
    return min(bits, ENOUGH_BITS)


# -- the automaton ----------------------------------------------------------------------------
Tables = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint16]]


def _as_many_as_fit(factors: Mapping[int, list[Factor]]) -> tuple[Tables, dict[int, list[Factor]]]:
    """With the narrowest sets, half as many rules until there is room."""
    kept = dict(factors)
    while True:
        kept = dict(list(kept.items())[: len(kept) // 2])
        built = _determinise([factor for found in kept.values() for factor in found], MOST_STATES)
        if built is not None:
            return built, kept


def _determinise(factors: Sequence[Factor], most: int) -> Tables | None:
    """Subset construction over the tree of factors; None when there are more than ``most`` states."""
    classes, members = _byte_classes({mask for factor in factors for mask in factor})
    by_mask = {mask: tuple(_classes_in(mask, members)) for factor in factors for mask in factor}
    tree, ends = _tree(factors)
    states: dict[frozenset[int], int] = {frozenset(): 0}
    order: list[frozenset[int]] = [frozenset()]
    rows: list[dict[int, int]] = []
    begun: dict[int, set[int]] = {}
    while len(rows) < len(order):
        reached: dict[int, set[int]] = {}
        for node in order[len(rows)] or (0,):
            for mask, child in tree[node].items():
                for kind in by_mask[mask]:
                    reached.setdefault(kind, set()).add(child)
        begun = begun or reached
        row: dict[int, int] = {}
        for kind, nodes in reached.items():
            nodes = nodes | begun.get(kind, set())
            if nodes & ends:
                row[kind] = -1
                continue
            key = frozenset(nodes)
            if key not in states:
                if len(states) >= most:
                    return None
                states[key] = len(order)
                order.append(key)
            row[kind] = states[key]
        rows.append(row)
    return classes, _filled(rows, len(members))


def _tree(factors: Sequence[Factor]) -> tuple[list[dict[Mask, int]], set[int]]:
    """Factors with common beginnings share nodes: children by set of bytes, and the nodes at which factors end."""
    tree: list[dict[Mask, int]] = [{}]
    ends: set[int] = set()
    for factor in factors:
        node = 0
        for mask in factor:
            if mask not in tree[node]:
                tree[node][mask] = len(tree)
                tree.append({})
            node = tree[node][mask]
        ends.add(node)
    return tree, ends


def _filled(rows: Sequence[Mapping[int, int]], width: int) -> npt.NDArray[np.uint16]:
    """Where a state says nothing, it goes where the first state goes; the final state, put last, stays."""
    table = np.zeros((len(rows) + 1, width), dtype=np.uint16)
    final = len(rows)
    for state, row in enumerate(rows):
        if state:
            table[state] = table[0]
        for kind, to in row.items():
            table[state, kind] = final if to < 0 else to
    table[final] = final
    return table


def _byte_classes(masks: set[Mask]) -> tuple[npt.NDArray[np.uint8], list[Mask]]:
    """Bytes that no mask tells apart are one class; returns the class of each byte, and the bytes of each class."""
    members: list[Mask] = [_ALL]
    for mask in sorted(masks):
        members = [part for old in members for part in (old & mask, old & ~mask) if part]
    classes = np.zeros(256, dtype=np.uint8)
    for kind, mask in enumerate(members):
        classes[[value for value in range(256) if mask >> value & 1]] = kind
    return classes, members


def _classes_in(mask: Mask, members: Sequence[Mask]) -> list[int]:
    return [kind for kind, member in enumerate(members) if member & mask]
