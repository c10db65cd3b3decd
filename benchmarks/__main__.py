"""``python -m benchmarks [NAME ...]``: run benchmarks one after the other, each in a process of its own.

Without names all of them except those that take many minutes (``memory``). Each can be run alone with its own
options: ``python -m benchmarks.NAME --help``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LONG = {"memory", "control", "kafka"}


def names() -> list[str]:
    """All benchmarks, by file or folder."""
    files = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*files, *(path.parent.name for path in FOLDER.glob("*/__main__.py"))])


def main(wanted: list[str]) -> int:
    """Run them; the exit code is that of the first that fails."""
    unknown = [name for name in wanted if name not in names()]
    if unknown:
        print(f"no benchmark {unknown[0]}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    code = 0
    for name in wanted or [name for name in names() if name not in LONG]:
        print(f"\n== {name}", flush=True)
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=FOLDER.parent, check=False)
        code = code or done.returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
