"""Contenders beside each other on one job, interleaved, each result one JSON line.

A job checks that a contender's output is right before it measures how fast it is; one that is wrong is listed as
wrong, one that cannot run with the reason. Lines go to ``.cache/bench/results``; :mod:`benchmarks.proof.report` makes
the page from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "bench"
RESULTS = CACHE / "results"

Measures = dict[str, Any]
"""Names carry their unit: ``packets_per_second``, ``mib_per_second``, ``p99_seconds``, ``cpu_seconds_per_gib``,
``peak_memory_bytes``, ``time_to_first_result_seconds``, ``lost``, ``duplicated``, ``out_of_order`` and so on."""


class NotRun(Exception):
    """The contender cannot run here; the message says why and what would change that."""


class Wrong(Exception):
    """The contender's output is not what the reference says."""


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Contender:
    """One program on the job.

    Attributes:
        name: as in tables.
        run: one repeat; takes its number. Raises :class:`NotRun` or :class:`Wrong`.
        version: of the program, once prepared.
        prepare: what it needs, once. Raises :class:`NotRun`.
        check: compares its output with the reference, once, before anything is measured; returns what the comparison
            found. Raises :class:`Wrong`.
        settings: how it is configured, as hashed into each line.
    """

    name: str
    run: Callable[[int], Measures]
    version: Callable[[], str]
    prepare: Callable[[], None] = _nothing
    check: Callable[[], Measures] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What all contenders do.

    Attributes:
        letter: A to E.
        settings: of the job itself, hashed into each line together with the contender's.
        seed: of what is generated.
    """

    letter: str
    contenders: Sequence[Contender]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1
    quick: bool = False


@cache
def host() -> dict[str, Any]:
    """CPU, cores that may be used, kernel."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}


@cache
def own_version() -> str:
    """``git describe``, or the version of the package outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip()
    from importlib.metadata import version

    return version("streamspec")


def configuration_hash(*settings: Mapping[str, Any]) -> str:
    """Twelve digits that change with any setting."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_line(job: Job, contender: Contender, repeat: int, status: str, version: str = "") -> dict[str, Any]:
    """What each line says besides its measures; ``status`` is ``measured``, ``checked``, ``wrong`` or ``not_run``."""
    return {
        "job": job.letter,
        "contender": contender.name,
        "repeat": repeat,
        "seed": job.seed,
        "quick": job.quick,
        "status": status,
        "reason": "",
        "host": host(),
        "versions": {"streamspec": own_version(), "contender": version},
        "settings": dict(contender.settings),
        "configuration": configuration_hash(job.settings, contender.settings),
        "measures": {},
    }


def run_job(job: Job, repeats: int, tell: Callable[[str], None] = print) -> Iterator[dict[str, Any]]:
    """Prepare and check all contenders, then run them in turn; each repeat begins with another one. Yields lines."""
    running: list[tuple[Contender, str]] = []
    for contender in job.contenders:
        line = _prepared(job, contender)
        tell(_shown(line))
        yield line
        if line["status"] == "checked":
            running.append((contender, line["versions"]["contender"]))
    for repeat in range(repeats):
        shift = repeat % max(len(running), 1)
        for contender, version in [*running[shift:], *running[:shift]]:
            line = _measured(job, contender, repeat, version)
            tell(_shown(line))
            yield line


def _prepared(job: Job, contender: Contender) -> dict[str, Any]:
    line = make_line(job, contender, -1, "checked")
    try:
        contender.prepare()
        line["versions"]["contender"] = contender.version()
        if contender.check is not None:
            line["measures"] = contender.check()
    except (NotRun, Wrong) as error:
        line.update(status="wrong" if isinstance(error, Wrong) else "not_run", reason=str(error))
    return line


def _measured(job: Job, contender: Contender, repeat: int, version: str) -> dict[str, Any]:
    line = make_line(job, contender, repeat, "measured", version)
    try:
        line["measures"] = contender.run(repeat)
    except (NotRun, Wrong) as error:
        line.update(status="wrong" if isinstance(error, Wrong) else "not_run", reason=str(error))
    return line


def _shown(line: Mapping[str, Any]) -> str:
    measures = {name: _short(value) for name, value in line["measures"].items()}
    head = f"{line['job']} {line['contender']} #{line['repeat']} {line['status']}"
    return f"{head} {line['reason'] or json.dumps(measures)}"


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write_results(job: Job, repeats: int, folder: Path = RESULTS) -> Path:
    """Run the job and write its lines, those of an earlier run replaced once this one is through."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{job.letter}{'-quick' if job.quick else ''}.jsonl"
    partial = path.with_suffix(".partial")
    started = time.monotonic()
    with partial.open("w", encoding="utf-8") as file:
        for line in run_job(job, repeats, lambda text: print(text, flush=True)):
            file.write(json.dumps(line, sort_keys=True) + "\n")
            file.flush()
    partial.replace(path)
    print(f"{job.letter}: {time.monotonic() - started:.0f} s, lines in {path}")
    return path
