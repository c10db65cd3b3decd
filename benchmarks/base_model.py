"""How well useful time is predicted on captures that were not trained on, and what a prediction costs.

``python -m benchmarks.base_model [--json] [--every N] [--folds N] [--repetitions N]``. The chain is that of the demo,
inspect and compress at levels 1, 3 and 9; each segment runs through it several times, by the worker's own code, and
the fastest turn counts. Captures are left out by whole file and by whole source repository (``MANIFEST.csv`` beside
them names it), with features of a sample, as by default, and of every byte. The exported trees predict, not
scikit-learn. Needs the folder of real captures (``STREAMSPEC_CAPTURES``).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from streamspec.core.errors import StreamspecError
from streamspec.core.prediction import PREDICTION, Features, Head, chain_heads
from streamspec.profiles.base_model import BasePredictor, load, packaged
from streamspec.profiles.training import FEATURE_SETS, Samples, cross_validate, fit, require_scikit_learn
from streamspec.telemetry.logging import configure_logging
from streamspec.train_models.collecting import Collected, chain_config, collect
from streamspec.train_models.judging import chain_errors
from streamspec.train_models.segments import SourceFile, find_files

CAPTURES = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[2] / "shared" / "pcaps"))
PAYLOADS = CAPTURES.parent / "payloads"
BATCH = 64
GOAL_WORK_ERROR, GOAL_NS_PER_SEGMENT = 0.20, 2000.0


def repositories(files: Sequence[SourceFile]) -> list[str]:
    """Where each file comes from, as the manifests beside it say; its first name elsewhere."""
    origin: dict[str, str] = {}
    for manifest in {file.path.parent / "MANIFEST.csv" for file in files}:
        if manifest.is_file():
            with manifest.open(newline="") as lines:
                origin |= {row["file"].rpartition("/")[2]: row["source_repo"] for row in csv.DictReader(lines)}
    return [origin.get(file.path.name, file.path.name.partition("__")[0]) for file in files]


def by_repository(collected: Collected) -> Samples:
    """The samples, grouped by repository in place of file."""
    names = repositories(collected.files)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    group = np.array([numbers[names[file]] for file in collected.samples.group.tolist()], dtype=np.int64)
    return replace(collected.samples, group=group)


def accuracy(samples: Samples, heads: Sequence[Head], folds: int) -> dict[str, Any]:
    """Errors of the whole chain in each variant, by feature set."""
    kept = samples.counts
    found: dict[str, Any] = {}
    for use in FEATURE_SETS:
        guesses = cross_validate(samples, use=use, folds=folds)
        for chain, of in chain_errors(heads, samples.values[kept], guesses[kept]).items():
            found.setdefault(chain, {})[use] = of
    return found


def fastest_ns(action: Callable[[], object], rounds: int = 300) -> float:
    """Best CPU time of one call."""
    best = float("inf")
    for _ in range(rounds):
        before = time.thread_time_ns()
        action()
        best = min(best, time.thread_time_ns() - before)
    return best


def speed(samples: Samples, heads: Sequence[Head]) -> dict[str, float]:
    """Nanoseconds a segment, in batches of 64, for all heads of the chain."""
    model = fit(samples)
    features: Features = np.ascontiguousarray(samples.features[samples.counts][:BATCH])
    out = np.zeros(len(features), dtype=PREDICTION)
    predictor = BasePredictor(model, heads)
    return {
        "heads": len(model.heads),
        "trees": len(model.forest.leaf),
        "depth": model.forest.depth,
        "predict_log_ns_per_segment": fastest_ns(lambda: model.predict_log(features)) / len(features),
        "predict_ns_per_segment": fastest_ns(lambda: predictor.predict(features, 0.0, out)) / len(features),
        "numpy_ns_per_segment": fastest_ns(lambda: model.predict_log_plainly(features), 5) / len(features),
    }


def measure(every: int, folds: int, repetitions: int) -> dict[str, Any]:
    """Everything; ``every`` takes each so many files only."""
    service = chain_config(None)
    heads = chain_heads(service.stages)
    files = find_files([CAPTURES], PAYLOADS if PAYLOADS.is_dir() else None)[::every]
    out: dict[str, Any] = {"captures": len(files), "goal_work_error": GOAL_WORK_ERROR, "work_error": {}}
    for view, every_byte in (("sampled", False), ("every byte", True)):
        collected = collect(files, service, repetitions=repetitions, every_byte=every_byte)
        if not every_byte:
            out["segments"] = int(collected.samples.counts.sum())
            out["speed"] = speed(collected.samples, heads)
            out["packaged"] = packaged_accuracy(collected.samples, heads)
        for split, samples in (("file", collected.samples), ("repository", by_repository(collected))):
            out["work_error"][f"{view}, by {split}"] = accuracy(samples, heads, folds)
    return out


def packaged_accuracy(samples: Samples, heads: Sequence[Head]) -> dict[str, Any] | None:
    """Of the model that comes with the package, which saw generated traffic only."""
    content = packaged()
    if content is None:
        return None
    kept = samples.of(samples.counts)
    guesses = np.exp(BasePredictor(load(content), heads).predict_log(kept.features))
    return chain_errors(heads, kept.values, guesses)


def show(found: dict[str, Any]) -> None:
    """For people."""
    print(f"{found['segments']} segments of {found['captures']} files; error of work = sum |error| / sum of work")
    for split, chains in found["work_error"].items():
        for chain, of in chains.items():
            told = "  ".join(f"{use} {of[use]['work_error']:.3f} ({of[use]['r2_log']:.2f})" for use in FEATURE_SETS)
            print(f"{split:24s} {chain:18s} {told}")
    if found["packaged"]:
        told = "  ".join(f"{chain} {of['work_error']:.3f}" for chain, of in found["packaged"].items())
        print(f"packaged model (generated traffic only): {told}")
    fast = found["speed"]
    print(
        f"{fast['heads']} heads, {fast['trees']} trees of depth {fast['depth']}, batches of {BATCH}: "
        f"{fast['predict_ns_per_segment']:.0f} ns a segment (goal {GOAL_NS_PER_SEGMENT:.0f}); the trees alone "
        f"{fast['predict_log_ns_per_segment']:.0f} ns, in NumPy {fast['numpy_ns_per_segment']:.0f} ns"
    )


def main() -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--every", type=int, default=1, help="take every so many files only")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=4)
    arguments = parser.parse_args()
    configure_logging("error")
    if not CAPTURES.is_dir():
        print("no folder of real captures (set STREAMSPEC_CAPTURES)", file=sys.stderr)
        return 0
    try:
        require_scikit_learn()
    except StreamspecError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    found = measure(arguments.every, arguments.folds, arguments.repetitions)
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
