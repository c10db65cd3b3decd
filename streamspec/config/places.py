"""YAML text to a plain tree that remembers where each part of it was written.

PyYAML's composer gives nodes with marks; what is built from them here is limited to mappings with text
keys, lists, and the scalars of the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema),
so that ``no`` is a word and ``12:30`` is not a number. Duplicate keys and foreign tags are refused.
Environment variables are substituted in scalars after parsing: a value can never add structure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from streamspec.config.problems import Path, Place, Problem, shorten

MAX_NODES = 100_000
"""More are refused: a few aliases of aliases expand to billions."""

_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(
    r"\$(?P<escaped>\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}|(?P<broken>\$\{)"
)


class _CoreLoader(yaml.SafeLoader):
    """PyYAML with the core schema's scalars only."""


_CoreLoader.yaml_implicit_resolvers = {}

for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(_TAG + _tag, re.compile(_pattern), _first)


@dataclass
class PlacedTree:
    """A plain tree and the positions of its parts.

    Attributes:
        root: mappings, lists and scalars.
        values: path to the place where its value starts.
        keys: path to the place of its key, for entries of mappings.
        written: path to a scalar's text as written, before substitution (a substituted secret is not shown).
        unread: paths of values that were refused and stand as null.
        problems: what was refused on the way.
    """

    root: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    written: dict[Path, str] = field(default_factory=dict)
    unread: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Of the value at ``path``, or of the nearest part above it that was written."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Place("configuration"))


def read_tree(text: str, origin: str, environment: Mapping[str, str]) -> PlacedTree:
    """Parse ``text``; syntax errors are problems of the result, nothing is raised."""
    tree = PlacedTree(values={(): Place(origin)})
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        if node is not None:
            tree.root = _Builder(tree, origin, environment).build(node, ())
    except yaml.YAMLError as error:
        tree.problems.append(_syntax_problem(error, text, origin))
    except RecursionError:
        tree.problems.append(Problem(Place(origin), "nested too deeply"))
    except (ValueError, OverflowError) as error:  # e.g. an escape beyond Unicode
        tree.problems.append(Problem(Place(origin), f"not YAML: {error}"))
    return tree


def plain_scalar(text: str) -> Any:
    """``text`` typed as an unquoted YAML scalar: ``"3"`` is 3, ``"true"`` is True, ``""`` is None.

    Raises:
        ValueError: a number beyond all bounds.
    """
    return _typed(_plain_tag(text), text)


def _plain_tag(text: str) -> str:
    resolvers = _CoreLoader.yaml_implicit_resolvers.get(text[:1], [])
    return next((tag for tag, pattern in resolvers if pattern.match(text)), _TAG + "str")


def _typed(tag: str, text: str) -> Any:
    match tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case "str":
            return text
    raise ValueError(f"tag {shorten(tag)!r} is not taken")


class _Builder:
    """Nodes to a plain tree, each path visited once."""

    def __init__(self, tree: PlacedTree, origin: str, environment: Mapping[str, str]) -> None:
        self._tree = tree
        self._origin = origin
        self._environment = environment
        self._open: set[int] = set()
        self._nodes = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        place = self._place(node)
        self._tree.values[path] = place
        self._nodes += 1
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self._refuse(place, f"more than {MAX_NODES} values", path)
            self._tree.unread.add(path)
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, place)
        if id(node) in self._open:
            return self._unread(place, "an alias that contains itself", path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
        finally:
            self._open.discard(id(node))
        return self._unread(place, f"tag {shorten(node.tag)!r} is not taken", path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str" or not _is_text(key):
                self._refuse(place, "keys are text; quote what looks like something else", path)
                continue
            if key in result:
                first = self._tree.keys[(*path, key)]
                self._refuse(place, f"key {shorten(key)!r} is written twice; first in line {first.line}", path)
                continue
            self._tree.keys[(*path, key)] = place
            result[key] = self.build(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.ScalarNode, path: Path, place: Place) -> Any:
        tag, text = node.tag, node.value
        self._tree.written[path] = text
        if "${" in text:
            text = self._substitute(text, path, place)
            if tag == _TAG + "str" and node.style is None:
                tag = _plain_tag(text)
        if path[-1:] == ("type",) and text:  # names a component, one of which is called null
            tag = _TAG + "str"
        if not _is_text(text):
            return self._unread(place, "a half of a surrogate pair is not text", path)
        try:
            return _typed(tag, text)
        except ValueError as error:
            return self._unread(place, str(error), path)

    def _substitute(self, text: str, path: Path, place: Place) -> str:
        def value_of(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["broken"]:
                what = "write ${NAME}, ${NAME:-default} or ${NAME:?message}, and $${ for ${ itself"
                self._unread(place, what, path)
                return ""
            value = self._environment.get(match["name"])
            if value or (value is not None and match["kind"] is None):
                return value
            if match["kind"] == "-":
                return match["rest"]
            message = match["rest"] if match["kind"] == "?" and match["rest"] else "it has no value"
            self._unread(place, f"environment variable {match['name']}: {message}", path)
            return ""

        return _VARIABLE.sub(value_of, text)

    def _place(self, node: yaml.Node) -> Place:
        mark = node.start_mark
        return Place(self._origin, mark.line + 1, mark.column + 1)

    def _unread(self, place: Place, what: str, path: Path) -> None:
        self._refuse(place, what, path)
        self._tree.unread.add(path)

    def _refuse(self, place: Place, what: str, path: Path) -> None:
        self._tree.problems.append(Problem(place, what, path))


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _syntax_problem(error: yaml.YAMLError, text: str, origin: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        reason = getattr(error, "reason", None) or str(error).splitlines()[0]
        return Problem(Place(origin, line, 1), f"not YAML: {reason}")
    what = " ".join(str(part) for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
    lines = text.splitlines()
    if mark.line < len(lines) and "${" in lines[mark.line]:
        what += "; quote ${...} inside { } and [ ]"
    return Problem(Place(origin, mark.line + 1, mark.column + 1), f"not YAML: {what}")
