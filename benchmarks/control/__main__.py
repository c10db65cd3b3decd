"""Control on real segments: ``auto`` beside every static setting of a sweep, and beside the baseline policies.

``python -m benchmarks.control [--json] [--seconds 20] [--seeds 3] [--shapes steady ...] [--load 0.6] [--full]
[--misled]``

Each run is the real service in a process of its own, on the same trace for every setting of a shape and seed; latency
counts from the intended arrival and what was shed counts as missed. ``best static`` is the static setting that misses
least (within half a point; then the fewest worker-seconds), chosen with hindsight for that very trace. Learning starts
from the packaged base model; its first seconds are a number of their own, and count in no other but ``miss_ratio`` and
``bytes_out``. Exploration is on. ``--misled`` compares ``auto`` from wrong base models with the static default instead.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.control.hindsight import best_static
from benchmarks.control.traces import SHAPES, load_pool
from benchmarks.control.wrong_models import KINDS

ROOT = Path(__file__).parents[2]
OBJECTIVE_SECONDS = 0.05
LEARNING_SECONDS = 5.0
LIGHT_BYTES = 16 * 1024
LEVELS = (1, 3, 9)

Spec = dict[str, Any]


def _config(levels: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "objective": {"latency": OBJECTIVE_SECONDS},
        # without its cache: the traces repeat their segments
        "stages": [
            {"type": "inspect", "rules": "configs/rules/basic.yaml", "cache_bytes": 0},
            {"type": "compress", **levels},
        ],
        "sinks": {"out": {"type": "null"}},
        "engine": {"segment_bytes": "64 KiB", "arena_bytes": "256 MiB", **changes.pop("engine", {})},
        **changes,
    }


def sweep_stages() -> list[dict[str, Any]]:
    """The chain by whose cost loads are measured."""
    stages: list[dict[str, Any]] = _config({"level": 9})["stages"]
    return stages


def static_settings(*, full: bool) -> dict[str, dict[str, Any]]:
    """The sweep: workers x lanes x batch x compression level."""
    found: dict[str, dict[str, Any]] = {}
    for workers in (1, 2, 3, 4) if full else (1, 2, 4):
        for lanes in (1, 2) if workers > 1 else (1,):
            for batch in (1, 16) if full else (4,):
                for level in LEVELS if full else (1, 9):
                    name = f"{workers} workers, {lanes} lanes, batch {batch}, level {level}"
                    found[name] = _config(
                        {"level": level}, control={"mode": "off"}, lanes=_lanes(workers, lanes, batch)
                    )
    return found


def _lanes(workers: int, lanes: int, batch: int) -> list[dict[str, Any]]:
    if lanes == 1:
        return [{"name": "all", "workers": workers, "batch": batch}]
    light = workers // 2
    return [
        {"name": "light", "match": {"max_bytes": LIGHT_BYTES}, "workers": light, "batch": batch},
        {"name": "heavy", "workers": workers - light, "batch": batch, "nice": 10, "urgency": 1},
    ]


def controlled_settings() -> dict[str, dict[str, Any]]:
    """Ours, and the baselines, which see rates and latency only."""
    variants = {"levels": list(LEVELS), "level": 9}
    settings = {"auto": _config(variants)}
    for policy in ("aimd", "gradient", "ds2"):
        settings[policy] = _config(
            {"level": 3},
            control={"policy": {"type": policy}, "variants": {"enabled": False}, "tuner": {"enabled": False}},
        )
    return settings


def misled_settings() -> dict[str, Spec]:
    """Ours from wrong base models, with and without a learner, and what the user would have had without control."""
    auto = controlled_settings()["auto"]
    frozen = {**auto, "learning": {"enabled": False}}
    found: dict[str, Spec] = {"static default": {"config": {**auto, "control": {"mode": "off"}}}}
    for kind in KINDS:
        found[f"auto, {kind} model"] = {"config": auto, "wrong_model": kind}
        found[f"auto, {kind} model, nothing learned"] = {"config": frozen, "wrong_model": kind}
    return found


def run(spec: Spec, pool: Path) -> dict[str, Any]:
    """One setting on one trace, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.control.drive", json.dumps(spec), str(pool)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise SystemExit(f"{spec['name']}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print a table per shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--full", action="store_true", help="the whole sweep")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--load", type=float, default=0.5)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--settings", nargs="+", help="only these of auto, aimd, gradient, ds2", default=None)
    parser.add_argument("--misled", action="store_true", help="wrong base models, beside the static default")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        pool.write_bytes(pickle.dumps(load_pool(sweep_stages())))
        for shape in options.shapes:
            _measure(shape, options, pool)


def _measure(shape: str, options: argparse.Namespace, pool: Path) -> None:
    base = {"shape": shape, "seconds": options.seconds, "load": options.load, "learning_seconds": LEARNING_SECONDS}
    reference = "static default" if options.misled else "best static"
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, options.seeds + 1):
        if not options.misled:
            statics = [
                run({**base, "name": name, "seed": seed, "config": config}, pool)
                for name, config in static_settings(full=options.full).items()
            ]
            rows.setdefault(reference, []).append(
                best_static(statics, itemgetter("miss_ratio"), itemgetter("worker_seconds_per_second", "bytes_out"))
            )
        for name, spec in _compared(options).items():
            rows.setdefault(name, []).append(run({**base, "name": name, "seed": seed, **spec}, pool))
    for name, results in rows.items():
        _tell(shape, name, results, rows[reference], as_json=options.json)


def _compared(options: argparse.Namespace) -> dict[str, Spec]:
    """What stands beside the reference."""
    if options.misled:
        return misled_settings()
    return {
        name: {"config": config}
        for name, config in controlled_settings().items()
        if not options.settings or name in options.settings
    }


def _tell(
    shape: str, name: str, results: list[dict[str, Any]], reference: list[dict[str, Any]], *, as_json: bool
) -> None:
    def median(key: str, of: list[dict[str, Any]] = results) -> float:
        return statistics.median(row[key] for row in of if row[key] is not None)

    row = {
        "shape": shape,
        "setting": name,
        "chosen": sorted({result["setting"] for result in results}),
        "miss_ratio": median("miss_ratio"),
        "miss_points_over_best_static": 100 * (median("miss_ratio") - median("miss_ratio", reference)),
        "settled_miss_ratio": median("settled_miss_ratio"),
        "learning_miss_ratio": median("learning_miss_ratio"),
        "p99_ms": median("p99_ms"),
        "light_p99_ms": median("light_p99_ms"),
        "worker_seconds_ratio": median("worker_seconds_per_second") / median("worker_seconds_per_second", reference),
        "bytes_out_ratio": median("bytes_out") / median("bytes_out", reference),
        "switches": median("switches"),
        "seeds": len(results),
    }
    if as_json:
        print(json.dumps(row | {"runs": results}), flush=True)
    else:
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float | int))
        print(f"{shape:14s} {name:12s} {numbers}  {row['chosen'] if name == 'best static' else ''}", flush=True)


if __name__ == "__main__":
    main()
