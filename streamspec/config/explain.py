"""What pydantic says about a tree, as problems with a place, what is allowed and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from streamspec.config.places import PlacedTree
from streamspec.config.problems import Path, Problem, shorten, suggest
from streamspec.config.schema import ABSENT, alternatives, child, description, known_keys

_QUOTED = re.compile(r"'([^']*)'")
_UNIONS = (("sources", "*"), ("stages", "*"), ("sinks", "*"), ("dead_letter",))
"""Where a tagged union stands; pydantic puts the tag behind these into its locations."""


def explain(error: ValidationError, model: type[BaseModel], tree: PlacedTree) -> Iterator[Problem]:
    """Each error of a failed validation of ``tree.root`` against ``model``."""
    schema = model.model_json_schema()
    for fault in error.errors(include_url=False):
        if fault["type"] != "cross_check":  # those are reported from the tree already, with a better place
            yield _problem(dict(fault), schema, tree)


def _problem(fault: dict[str, Any], schema: Mapping[str, Any], tree: PlacedTree) -> Problem:
    context: Mapping[str, Any] = fault.get("ctx") or {}
    path = _path_in_tree(fault["loc"], tree.root, missing=fault["type"] == "missing")
    discriminator = str(context.get("discriminator", "")).strip("'")
    match fault["type"]:
        case "extra_forbidden":
            known = known_keys(schema, path[:-1], tree.root)
            place = tree.keys.get(path) or tree.place(path)
            return Problem(place, "unknown key", path, suggest(str(path[-1]), known), ", ".join(known))
        case "missing":
            place = tree.keys.get(path[:-1]) or tree.place(path[:-1])
            text = description(schema, path, tree.root)
            return Problem(place, f"is missing: {text}" if text else "is missing", path)
        case "union_tag_not_found":
            known = alternatives(schema, path, tree.root)
            place = tree.keys.get(path) or tree.place(path)
            return Problem(place, "is missing", (*path, discriminator), allowed=", ".join(known))
        case "union_tag_invalid" | "literal_error":
            known = _QUOTED.findall(str(context.get("expected_tags") or context.get("expected")))
            path = (*path, discriminator) if discriminator else path
            value = child_at(tree.root, path)
            hint = suggest(value, known) if isinstance(value, str) else None
            return Problem(tree.place(path), f"unknown value{_got(tree, path)}", path, hint, ", ".join(known))
    if fault["loc"][-1:] == ("[key]",):
        return Problem(tree.keys.get(path) or tree.place(path), f"not a name here: {_lower(fault['msg'])}", path)
    what = str(fault["msg"]).removeprefix("Value error, ").replace("Input should", "must")
    return Problem(tree.place(path), _lower(what) + _got(tree, path), path)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _got(tree: PlacedTree, path: Path) -> str:
    """The scalar as it was written, so that a substituted secret stays out of logs."""
    value = child_at(tree.root, path)
    if value is None or isinstance(value, dict | list):
        return ""
    return f" (got {shorten(tree.written.get(path, str(value)))!r})"


def child_at(root: Any, path: Path) -> Any:
    """What lies at ``path`` of a plain tree; None where there is nothing."""
    for part in path:
        root = child(root, part)
    return None if root is ABSENT else root


def _path_in_tree(location: tuple[str | int, ...], root: Any, *, missing: bool) -> Path:
    """``location`` without what pydantic adds: tags of unions, names of union members, ``[key]``."""
    path: Path = ()
    current = root
    tagged: Path | None = None
    for position, part in enumerate(location):
        if part == "[key]":
            break
        if _is_union(path) and path != tagged and isinstance(current, dict) and part == current.get("type"):
            tagged = path
            continue
        inside = child(current, part)
        if inside is not ABSENT:
            path, current = (*path, part), inside
        elif missing and position == len(location) - 1:
            path = (*path, part)
    return path


def _is_union(path: Path) -> bool:
    return any(
        len(path) == len(union) and all(star in ("*", part) for star, part in zip(union, path, strict=True))
        for union in _UNIONS
    )
