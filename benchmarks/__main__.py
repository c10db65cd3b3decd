"""``python -m benchmarks [NAME ...]``: run benchmarks one after the other, each in a process of its own.

Without names all single benchmarks except those that take many minutes (``LONG``). Each can be run alone with its own
options: ``python -m benchmarks.NAME --help``.

``python -m benchmarks JOB [JOB ...] [--repeats 5] [--quick]`` with jobs ``A`` to ``E`` measures the service side by
side with what else there is (:mod:`benchmarks.proof`; ``proof`` stands for all five), and ``report`` makes
``benchmarks/RESULTS.md`` from what they found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LONG = {"memory", "control", "kafka", "proof"}
JOBS = "ABCDE"


def names() -> list[str]:
    """All benchmarks, by file or folder."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*files, *(path.parent.name for path in FOLDER.glob("*/__main__.py"))])


def command(name: str, repeats: int, quick: bool) -> list[str]:
    """What a name stands for, without the interpreter."""
    if name == "report":
        return ["-m", "benchmarks.proof.report"]
    if name == "proof" or name in JOBS:
        jobs = JOBS if name == "proof" else name
        return ["-m", "benchmarks.proof", *jobs, "--repeats", str(repeats), *(["--quick"] if quick else [])]
    return ["-m", f"benchmarks.{name}"]


def main(words: list[str]) -> int:
    """Run them; the exit code is that of the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a benchmark, a job from A to E, proof, or report")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of the jobs A to E")
    parser.add_argument("--quick", action="store_true", help="jobs A to E: small, only to see that all works")
    options = parser.parse_args(words)
    unknown = [name for name in options.names if name not in {*names(), *JOBS, "report"}]
    if unknown:
        there = ", ".join([*names(), *JOBS, "report"])
        print(f"no benchmark {unknown[0]}; there are: {there}", file=sys.stderr)
        return 2
    code = 0
    for name in options.names or [name for name in names() if name not in LONG]:
        print(f"\n== {name}", flush=True)
        words = [sys.executable, *command(name, options.repeats, options.quick)]
        done = subprocess.run(words, cwd=FOLDER.parent, check=False)
        code = code or done.returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
