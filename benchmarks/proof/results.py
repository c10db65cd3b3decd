"""Raw lines of all jobs, summed up: medians and spread by job, phase and contender."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]
OURS = "streamspec"


@dataclass(frozen=True)
class Spread:
    """Of one measure over the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Entry:
    """One contender in one phase.

    Attributes:
        reasons: why it was not measured, or is wrong; each once.
        wrong: its output was not right, so its speed says nothing.
    """

    contender: str
    version: str = ""
    repeats: int = 0
    wrong: bool = False
    reasons: list[str] = field(default_factory=list)
    measures: dict[str, Spread] = field(default_factory=dict)
    marks: set[str] = field(default_factory=set)
    values: dict[str, list[float]] = field(default_factory=dict, repr=False)

    def median(self, measure: str) -> float | None:
        """None where it was not measured, or is wrong."""
        spread = None if self.wrong else self.measures.get(measure)
        return spread.median if spread else None


@dataclass
class JobResults:
    """All of one job.

    Attributes:
        phases: entries by phase, in order of appearance.
        quick: of a short run, that only shows that everything works.
    """

    letter: str
    quick: bool
    lines: list[Line]
    phases: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def entry(self, phase: str, contender: str) -> Entry | None:
        """None when there is no such line."""
        return self.phases.get(phase, {}).get(contender)


def load(folder: Path) -> list[JobResults]:
    """Results by job; those of quick runs only for jobs that have no others."""
    lines: dict[str, list[Line]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for text in file:
                line = json.loads(text)
                lines.setdefault(line["job"], []).append(line)
    return [summed_up(letter, lines[letter]) for letter in sorted(lines)]


def summed_up(letter: str, lines: Iterable[Line]) -> JobResults:
    """One job's lines."""
    every = list(lines)
    full = [line for line in every if not line.get("quick")]
    results = JobResults(letter, quick=not full, lines=full or every)
    for line in results.lines:
        phase = results.phases.setdefault(line.get("phase") or line.get("case") or "", {})
        _take(phase.setdefault(line["contender"], Entry(line["contender"])), line)
    for entries in results.phases.values():
        for entry in entries.values():
            entry.measures = {name: Spread.of(values) for name, values in entry.values.items()}
    return results


def _take(entry: Entry, line: Line) -> None:
    measures = line.get("measures", {})
    status = line.get("status", "measured")
    entry.version = entry.version or line.get("versions", {}).get("contender", "")
    wrong = status == "wrong" or measures.get("correct") is False
    entry.wrong = entry.wrong or wrong
    reason = line.get("reason") or line.get("not_run") or ("its output differs from the reference" if wrong else "")
    if reason and reason not in entry.reasons:
        entry.reasons.append(reason)
    if status == "checked" and measures.get("tolerated"):
        entry.reasons.append(f"compared with tolerance: {measures['tolerated']}")
    if status != "measured":
        return
    entry.repeats += 1
    for name, value in measures.items():
        if isinstance(value, bool):
            if value and name != "correct":
                entry.marks.add(name)
        elif isinstance(value, int | float):
            entry.values.setdefault(name, []).append(float(value))
