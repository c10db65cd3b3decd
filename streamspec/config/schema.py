"""Questions to a JSON Schema: which keys are known at a path, what a field means, which kinds there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from streamspec.config.problems import Path

Schema = Mapping[str, Any]


class _Absent:
    """Nothing there, which differs from null."""


ABSENT: Final = _Absent()


def child(value: Any, part: str | int) -> Any:
    """The entry ``part`` of a plain mapping or list, or :data:`ABSENT`."""
    if isinstance(value, dict):
        return value.get(part, ABSENT)
    if isinstance(value, list) and isinstance(part, int) and 0 <= part < len(value):
        return value[part]
    return ABSENT


def known_keys(root: Schema, path: Path, tree: Any) -> list[str]:
    """Keys that the mapping at ``path`` may have, in the order of their declaration."""
    return list(_object_at(root, path, tree).get("properties", {}))


def description(root: Schema, path: Path, tree: Any) -> str:
    """What the field at ``path`` means, in one sentence; empty when it is not described."""
    entry = _object_at(root, path[:-1], tree).get("properties", {}).get(path[-1], {})
    return str(entry.get("description", "")).split(". ")[0].rstrip(".")


def alternatives(root: Schema, path: Path, tree: Any) -> list[str]:
    """Tags of the tagged union at ``path``; empty when there is none."""
    current, _ = _walk(root, path, tree)
    for candidate in (current, *current.get("anyOf", ())):
        if "discriminator" in candidate:
            return list(candidate["discriminator"]["mapping"])
    return []


def _object_at(root: Schema, path: Path, tree: Any) -> Schema:
    current, value = _walk(root, path, tree)
    return _resolve(root, current, value)


def _walk(root: Schema, path: Path, tree: Any) -> tuple[Schema, Any]:
    current, value = root, tree
    for part in path:
        current = _resolve(root, current, value)
        value = child(value, part)
        if isinstance(part, int):
            current = current.get("items", {})
        elif part in current.get("properties", {}):
            current = current["properties"][part]
        else:
            others = [*current.get("patternProperties", {}).values(), current.get("additionalProperties")]
            current = next((other for other in others if isinstance(other, dict)), {})
    return current, value


def _resolve(root: Schema, current: Schema, value: Any) -> Schema:
    """Follow references and pick the member of a union that ``value`` is meant to be."""
    while True:
        if "$ref" in current:
            current = root["$defs"][str(current["$ref"]).rsplit("/", 1)[-1]]
        elif "discriminator" in current:
            tag = child(value, current["discriminator"]["propertyName"])
            reference = current["discriminator"]["mapping"].get(tag) if isinstance(tag, str) else None
            if reference is None:
                return {}
            current = {"$ref": reference}
        elif "anyOf" in current or "oneOf" in current:
            members = current.get("anyOf") or current.get("oneOf") or []
            current = next((member for member in members if _may_be_object(member)), {})
        else:
            return current


def _may_be_object(member: Schema) -> bool:
    return bool({"$ref", "discriminator", "properties", "additionalProperties"} & set(member))
