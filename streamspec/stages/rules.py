"""Rules files of ``inspect``: YAML lists of ``{id, name, pattern, flags, severity}``, read with their lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from streamspec.core.errors import ConfigError

FLAGS = ("caseless", "dotall", "multiline", "singlematch", "utf8", "ucp")
SEVERITIES = ("low", "medium", "high", "critical")
_KEYS = {"id", "name", "pattern", "flags", "severity"}
_MAX_ID = 2**31 - 1


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        place: ``file:line``, for messages.
    """

    id: int
    name: str
    pattern: str
    flags: tuple[str, ...]
    severity: str
    place: str


def read_rules(path: Path) -> list[Rule]:
    """The rules in a file. Raises ConfigError with ``file:line`` for whatever is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the rules file cannot be read", where=str(path), value=str(error)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"not YAML: {getattr(error, 'problem', error)}", where=place) from error
    if not isinstance(root, yaml.SequenceNode):
        raise ConfigError(
            "a rules file is a list", where=f"{path}:1", allowed="a list of {id, name, pattern, flags, severity}"
        )
    rules = [_rule(node, f"{path}:{node.start_mark.line + 1}") for node in root.value]
    return unique_rules(rules)


def _rule(node: yaml.Node, place: str) -> Rule:
    try:
        content: Any = yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError("a rule is a mapping of plain values", where=place, value=str(error)) from error
    if not isinstance(content, dict):
        raise ConfigError("a rule is a mapping", where=place, allowed=", ".join(sorted(_KEYS)))
    unknown = set(content) - _KEYS
    if unknown:
        raise ConfigError(
            "unknown key", where=place, value=sorted(map(str, unknown))[0], allowed=", ".join(sorted(_KEYS))
        )
    number, name, pattern = (content.get(key) for key in ("id", "name", "pattern"))
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MAX_ID:
        raise ConfigError("id is not a number", where=place, value=number, allowed=f"0 to {_MAX_ID}")
    if not isinstance(name, str) or not name:
        raise ConfigError("name is missing", where=place, value=name, allowed="text")
    if not isinstance(pattern, str) or not pattern:
        raise ConfigError("pattern is missing", where=place, value=pattern, allowed="a regular expression")
    if "\0" in pattern or (not pattern.isascii() and any("\ud800" <= c <= "\udfff" for c in pattern)):
        raise ConfigError("the pattern holds a character that cannot be compiled", where=place, allowed="write \\x00")
    return Rule(number, name, pattern, _flags(content, place), _severity(content, place), place)


def _flags(content: dict[str, Any], place: str) -> tuple[str, ...]:
    flags = content.get("flags") or []
    flags = [flags] if isinstance(flags, str) else flags
    wrong = [flag for flag in flags if flag not in FLAGS] if isinstance(flags, list) else [flags]
    if wrong:
        raise ConfigError("unknown flag", where=place, value=wrong[0], allowed=", ".join(FLAGS))
    return tuple(flags)


def _severity(content: dict[str, Any], place: str) -> str:
    severity = content.get("severity", "medium")
    if isinstance(severity, int) and not isinstance(severity, bool) and 1 <= severity <= 4:
        severity = SEVERITIES[severity - 1]
    if severity not in SEVERITIES:
        raise ConfigError(
            "unknown severity", where=place, value=severity, allowed=f"{', '.join(SEVERITIES)}, or 1 to 4"
        )
    return str(severity)


def unique_rules(rules: Iterable[Rule]) -> list[Rule]:
    """The rules as a list. Raises ConfigError when two have the same id."""
    seen: dict[int, Rule] = {}
    for rule in rules:
        if rule.id in seen:
            raise ConfigError("the id is taken", where=rule.place, value=rule.id, allowed=f"see {seen[rule.id].place}")
        seen[rule.id] = rule
    return list(seen.values())
