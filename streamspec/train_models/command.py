"""The command itself: measure, cross-validate, fit, store, tell."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamspec.config import ServiceConfig
from streamspec.core.features import FEATURE_SCHEMA_VERSION
from streamspec.core.prediction import Head, chain_heads
from streamspec.profiles.base_model import BaseModel
from streamspec.profiles.head_plan import Floats
from streamspec.profiles.training import (
    FEATURE_SETS,
    Samples,
    cross_validate,
    fit,
    identity_of,
    margins_of,
    require_scikit_learn,
)
from streamspec.telemetry.logging import configure_logging
from streamspec.train_models.collecting import Collected, chain_config, collect, shown_progress
from streamspec.train_models.judging import chain_errors, error_table, head_errors
from streamspec.train_models.segments import cut_sizes, find_files

if TYPE_CHECKING:
    from rich.progress import Progress

    from streamspec.profiles.records import Role

SIZE_SUFFIX = "-size"
"""The model of the length alone is stored beside the other, to be compared with."""


def run_train(
    captures: Sequence[Path],
    *,
    database: Path,
    config: Path | None,
    payloads: Path | None,
    as_json: bool,
    repetitions: int = 5,
    folds: int = 5,
    every_byte: bool = False,
    name: str = "base",
    role: Role = "champion",
) -> None:
    """Train a base model, store it and print how good it is on files that it did not see.

    Raises:
        DependencyUnavailable: scikit-learn is missing, or a file cannot be read or written.
        UsageError: there is nothing to train on.
    """
    require_scikit_learn()
    configure_logging("error")  # standard output is for the result, and damaged captures are no news here
    from streamspec.profiles.database import ProfileDatabase

    service = chain_config(config)
    heads = chain_heads(service.stages)
    with ProfileDatabase.open(database) as store:  # before minutes of work, not after
        before = store.champion(name)
        with shown_progress(quiet=as_json) as progress:
            collected = collect(
                find_files(captures, payloads),
                service,
                repetitions=repetitions,
                every_byte=every_byte,
                progress=progress,
            )
            metrics, margins = validate(collected.samples, heads, folds=folds, progress=progress)
            trained_on = describe(collected, service, every_byte=every_byte)
            model = replace(fit(collected.samples, margins=margins), training_set=trained_on, metrics=metrics)
            size = replace(fit(collected.samples, use="size"), training_set=trained_on)
        versions = {}
        for stored, content in ((name, model), (name + SIZE_SUFFIX, size)):
            versions[stored] = store.store_model(
                stored,
                content.to_bytes(),
                kind="trees",
                heads=content.heads,
                training_set=trained_on,
                metrics=content.metrics,
                role=role,
                parent=before.version if before is not None and stored == name else None,
            )
    document = {
        "model": {"name": name, "version": versions[name], "role": role, "database": str(database)},
        "training_set": {key: value for key, value in trained_on.items() if key != "digests"},
        **metrics,
    }
    _tell(document, as_json)


def validate(
    samples: Samples, heads: Sequence[Head], *, folds: int, progress: Progress | None = None
) -> tuple[dict[str, Any], Floats]:
    """Cross-validation by whole file: metrics of each feature set, and the margins of the content features."""
    by_head: dict[str, dict[str, Any]] = {name: {} for name in samples.heads}
    by_chain: dict[str, dict[str, Any]] = {}
    kept = samples.counts
    margins = np.zeros((0, 0))
    for use in FEATURE_SETS:
        bar = None if progress is None else progress.add_task(f"validating {use}", total=folds * len(samples.heads))
        guesses = cross_validate(
            samples,
            use=use,
            folds=folds,
            progress=None if progress is None or bar is None else lambda _, bar=bar: progress.advance(bar),  # type: ignore[misc]
        )
        for name, found in head_errors(samples.heads, samples.values[kept], guesses[kept]).items():
            by_head[name][use] = found
        for name, found in chain_errors(heads, samples.values[kept], guesses[kept]).items():
            by_chain.setdefault(name, {})[use] = found
        margins = margins_of(samples, guesses)
    return {"validation": f"{folds} folds of whole files", "heads": by_head, "chains": by_chain}, margins


def describe(collected: Collected, config: ServiceConfig, *, every_byte: bool) -> dict[str, Any]:
    """Identity of a training set."""
    used = collected.used
    return {
        "identity": identity_of(collected.samples, [file.digest for file in used]),
        "files": len(used),
        "digests": [file.digest for file in used],
        "segments": len(collected.samples.features),
        "segment_bytes": cut_sizes(config.engine),
        "sample_bytes": 0 if every_byte else config.profiler.sample_bytes,
        "feature_schema": FEATURE_SCHEMA_VERSION,
        "chain": [list(stage.cost_keys) for stage in config.stages],
    }


def trained_digests(model: BaseModel) -> frozenset[str]:
    """Files that it was trained on."""
    return frozenset(map(str, model.training_set.get("digests", ())))


def _tell(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document, default=str) + "\n")
        sys.stdout.flush()
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(error_table("useful time of the whole chain, by variant", FEATURE_SETS, document["chains"]))
    console.print(error_table("each head", FEATURE_SETS, document["heads"]))
    told, trained = document["model"], document["training_set"]
    console.print(
        f"trained on {trained['segments']} segments of {trained['files']} files (judged on whole files left out); "
        f"stored as {told['name']}:{told['version']}, {told['role']}, in {told['database']}",
        highlight=False,
    )
