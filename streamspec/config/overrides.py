"""``--set a.b.0.c=value``: one value put over what the file says, before anything is validated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamspec.config.places import PlacedTree, plain_scalar, read_tree
from streamspec.config.problems import Path, Place, Problem, format_path, suggest
from streamspec.core.paths import CommandLineText


def apply_overrides(tree: PlacedTree, overrides: Iterable[str]) -> None:
    """Change ``tree`` in place; what cannot be applied becomes a problem of the tree."""
    for text in overrides:
        place = Place(f"--set {text}")
        name, equals, value_text = text.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            tree.problems.append(Problem(place, "an override is written path.to.key=value"))
            continue
        named = parts[-1] == "type"  # names a component, one of which is called null
        value = CommandLineText(value_text) if named else _read_value(value_text, place, tree)
        problem = _put(tree, parts, value, place)
        if problem is not None:
            tree.problems.append(problem)


def _read_value(text: str, place: Place, tree: PlacedTree) -> Any:
    """A scalar as YAML types it; text that opens with a quote, ``[`` or ``{`` is read as YAML."""
    if text[:1] in {"'", '"', "[", "{"}:
        inner = read_tree(text, place.origin, {})
        tree.problems.extend(Problem(place, problem.what) for problem in inner.problems)
        return _mark(inner.root)
    try:
        return _mark(plain_scalar(text))
    except ValueError as error:
        tree.problems.append(Problem(place, str(error)))
        return None


def _mark(value: Any) -> Any:
    """All text below ``value`` as :class:`CommandLineText`."""
    if isinstance(value, str):
        return CommandLineText(value)
    if isinstance(value, list):
        return [_mark(item) for item in value]
    if isinstance(value, dict):
        return {key: _mark(item) for key, item in value.items()}
    return value


def _put(tree: PlacedTree, parts: list[str], value: Any, place: Place) -> Problem | None:
    if tree.root is None:
        tree.root = {}
    current: Any = tree.root
    path: Path = ()
    for position, part in enumerate(parts):
        key = _step(current, part)
        if key is None:
            return _lost(current, part, path, place)
        path = (*path, key)
        if position == len(parts) - 1:
            current[key] = value
            _replace_places(tree, path, place)
        else:
            # An empty section (`engine:`) is null in YAML; it opens here as if it were not written.
            if isinstance(current, dict) and current.get(key) is None:
                current[key] = {}
                tree.values[path] = place
            current = current[key]
    return None


def _step(current: Any, part: str) -> str | int | None:
    """The key or index that ``part`` names in ``current``; None when there is no such place."""
    if isinstance(current, dict):
        return part
    if isinstance(current, list) and part.isascii() and part.isdigit() and int(part[:9]) < len(current):
        return int(part[:9])
    return None


def _lost(current: Any, part: str, path: Path, place: Place) -> Problem:
    where = format_path(path)
    if isinstance(current, list):
        allowed = f"0 to {len(current) - 1}" if current else "none, the list is empty"
        known = [str(item.get("type")) for item in current if isinstance(item, dict)]
        hint = suggest(part, known)
        named = f"; {hint!r} is {where}.{known.index(hint)}" if hint else ""
        return Problem(place, f"{where} is a list and has no entry {part!r}{named}", allowed=allowed)
    return Problem(place, f"{where or 'the configuration'} is a single value and has no entry {part!r}")


def _replace_places(tree: PlacedTree, path: Path, place: Place) -> None:
    """The value that stood there is gone, and with it what was wrong with it."""
    depth = len(path)
    tree.problems[:] = [problem for problem in tree.problems if not path or problem.path[:depth] != path]
    tree.unread -= {known for known in tree.unread if known[:depth] == path}
    for places in (tree.values, tree.keys, tree.written):
        for below in [known for known in places if known[:depth] == path]:
            del places[below]
    tree.values[path] = place
    tree.keys[path] = place
