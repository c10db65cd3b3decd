"""Job E: control. ``auto`` beside its own static settings and the baseline policies, on open-loop traces.

``python -m benchmarks.proof.job_e [--repeats 5] [--quick]``

Each run is one of :mod:`benchmarks.control`: the real service, in a process of its own, on the trace of a shape and
seed. Misses are those after the first seconds, in which it learns; these have a column of their own. ``--quick`` has
shorter traces and a smaller sweep.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.control.__main__ import controlled_settings, run, static_settings, sweep_stages
from benchmarks.control.traces import SHAPES, load_pool
from benchmarks.proof.harness import RESULTS, Contender, Job, Measures, make_line, own_version
from benchmarks.proof.results import OURS

LOAD = 0.5
SECONDS, QUICK_SECONDS, LEARNING_SECONDS = 20.0, 14.0, 4.0


def settings(quick: bool) -> dict[str, dict[str, Any]]:
    """Configurations by the name of the contender."""
    statics = static_settings(full=False)
    if quick:
        statics = {name: config for name, config in statics.items() if not name.startswith("4 ")}
    controlled = controlled_settings()
    return {OURS: controlled.pop("auto"), **controlled, **{f"static: {name}": c for name, c in statics.items()}}


def measures(result: dict[str, Any]) -> Measures:
    """Of one run, in the words of the harness."""
    return {
        "miss_ratio": result["settled_miss_ratio"],
        "learning_miss_ratio": result["learning_miss_ratio"],
        "p99_seconds": result["p99_ms"] / 1e3,
        "light_p99_seconds": result["light_p99_ms"] / 1e3,
        "workers": result["worker_seconds_per_second"],
        "cpu_seconds_per_second": result["cpu_seconds_per_second"],
        "out_bytes": result["bytes_out"],
        "switches": result["switches"],
        "lost": result["lost"],
    }


def lines(quick: bool, repeats: int, pool: Path) -> Iterator[dict[str, Any]]:
    """One per shape, repeat and contender; each repeat has a seed of its own."""
    seconds = QUICK_SECONDS if quick else SECONDS
    for shape in SHAPES:
        for repeat in range(repeats):
            for name, config in settings(quick).items():
                contender = Contender(name, lambda _: {}, own_version, settings=config)
                job = Job("E", [contender], {"seconds": seconds, "load": LOAD}, repeat + 1, quick)
                spec = {"name": name, "shape": shape, "seed": repeat + 1, "seconds": seconds, "load": LOAD}
                result = run({**spec, "learning_seconds": LEARNING_SECONDS, "config": config}, pool)
                line = make_line(job, contender, repeat, "measured", own_version())
                yield line | {"phase": shape, "measures": measures(result)}


def main() -> None:
    """Run all and replace the lines of an earlier run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"E{'-quick' if options.quick else ''}.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        pool.write_bytes(pickle.dumps(load_pool(sweep_stages())))
        with path.with_suffix(".partial").open("w", encoding="utf-8") as file:
            for line in lines(options.quick, options.repeats, pool):
                print(line["phase"], line["contender"], json.dumps(line["measures"]), flush=True)
                file.write(json.dumps(line, sort_keys=True) + "\n")
                file.flush()
    path.with_suffix(".partial").replace(path)


if __name__ == "__main__":
    main()
