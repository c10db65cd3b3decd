"""``python -m benchmarks.proof JOB [JOB ...] [--repeats 5] [--quick]``, with jobs A to E."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys

from benchmarks.proof.harness import ROOT, write_results

JOBS = "ABCDE"


def main(words: list[str] | None = None) -> int:
    """Run the jobs named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; all when none is named")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats of each contender")
    parser.add_argument("--quick", action="store_true", help="small, only to see that all works")
    options = parser.parse_args(words)
    wanted = [name.upper() for name in options.jobs] or list(JOBS)
    for letter in wanted:
        if letter not in JOBS:
            parser.error(f"no job {letter}; there are {', '.join(JOBS)}")
    return max(_run(letter, options.repeats, options.quick) for letter in wanted)


def _run(letter: str, repeats: int, quick: bool) -> int:
    name = f"benchmarks.proof.job_{letter.lower()}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        print(f"{letter}: there is no such job yet", file=sys.stderr)
        return 1
    if hasattr(module, "build"):
        write_results(module.build(quick), repeats)
        return 0
    command = [sys.executable, "-m", name, "--repeats", str(repeats), *(["--quick"] if quick else [])]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
