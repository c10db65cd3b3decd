"""What is wrong with a configuration, where, and the one exception that carries all of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamspec.core.errors import ConfigError

Path = tuple[str | int, ...]
"""Where in the tree: keys and list indices from the top."""

MAX_SHOWN = 60
MAX_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Place:
    """A position in a source of configuration; line and column count from one, 0 means none."""

    origin: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.origin}:{self.line}:{self.column}" if self.line else self.origin


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault, printed as one line."""

    place: Place
    what: str
    path: Path = ()
    suggestion: str | None = None
    allowed: str | None = None

    def __str__(self) -> str:
        text = f"{self.place}: {format_path(self.path)}: {self.what}" if self.path else f"{self.place}: {self.what}"
        if self.suggestion:
            text += f"; did you mean {self.suggestion!r}?"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return printable(text)


class ConfigurationRefused(ConfigError):
    """Everything that is wrong with a configuration, one line each, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        unique = dict.fromkeys(problems)
        ordered = sorted(unique, key=lambda p: (p.place.line or 1 << 30, p.place.column))
        self.problems: tuple[Problem, ...] = tuple(ordered)
        lines = [str(problem) for problem in ordered[:MAX_PROBLEMS]]
        if len(ordered) > MAX_PROBLEMS:
            lines.append(f"... and {len(ordered) - MAX_PROBLEMS} more")
        super().__init__("\n".join(lines))


def format_path(path: Sequence[str | int]) -> str:
    """``("stages", 1, "rules")`` -> ``stages.1.rules``, the form that ``--set`` takes."""
    return ".".join(shorten(part) if isinstance(part, str) else str(part) for part in path)


def suggest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    if len(word) > MAX_SHOWN:
        return None
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def shorten(text: str) -> str:
    """At most :data:`MAX_SHOWN` characters."""
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def printable(text: str) -> str:
    """One line that any terminal or log takes: control characters and surrogates as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
