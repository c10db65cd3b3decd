"""Small files of ``/proc`` and ``/sys``, any of which may be missing or refuse to be read."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str:
    """Content, or nothing."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def read_number(path: Path) -> float | None:
    """The number that a file holds, if it does."""
    try:
        return float(read_text(path))
    except ValueError:
        return None


def read_cores(path: Path) -> frozenset[int]:
    """A set of CPUs as the kernel writes it: ``"0-2,8"`` -> {0, 1, 2, 8}; empty for anything else."""
    found: set[int] = set()
    for part in filter(None, read_text(path).strip().split(",")):
        first, _, last = part.partition("-")
        try:
            found.update(range(int(first), int(last or first) + 1))
        except ValueError:
            return frozenset()
    return frozenset(found)
