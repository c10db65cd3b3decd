"""``streamspec evaluate``: how well stored models predict captures that they were not trained on.

Three are compared: the length alone, the base model alone, and the base model with the online layer on top, which
predicts each batch of segments before it learns from it, in order (progressive validation).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamspec.core.errors import UsageError
from streamspec.core.prediction import Features, Head, chain_heads, variant_stage
from streamspec.profiles.base_model import BaseModel, BasePredictor, load
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.head_plan import Floats
from streamspec.profiles.lookup import ProfileLookup, ResourceProfile
from streamspec.profiles.online import OnlineLayer
from streamspec.telemetry.logging import configure_logging
from streamspec.train_models.collecting import Collected, chain_config, collect, shown_progress
from streamspec.train_models.command import SIZE_SUFFIX, trained_digests
from streamspec.train_models.judging import by_type, chain_errors, error_table, head_errors
from streamspec.train_models.measuring import Measured, outcomes_of
from streamspec.train_models.segments import find_files

MODELS = ("size", "base", "base_and_online")
LEARNED_AT_ONCE = 32
"""Segments between two snapshots: what a busy service finishes meanwhile is more, a quiet one's less."""


@dataclass(frozen=True)
class StoredModels:
    """What is judged; ``size`` is None where it was not stored, and then stages cost by length as if never measured."""

    base: BaseModel
    size: BaseModel | None
    identity: str


def run_evaluate(
    captures: Sequence[Path],
    *,
    database: Path,
    config: Path | None,
    payloads: Path | None,
    as_json: bool,
    repetitions: int = 5,
    every_byte: bool = False,
    name: str = "base",
) -> None:
    """Measure the segments of captures and print how well each model predicts them.

    Raises:
        UsageError: there is no such model, or it was trained on all these files.
        DatabaseUnusable: the database, or the model in it, cannot be used.
    """
    configure_logging("error")  # standard output is for the result, and damaged captures are no news here
    stored = read_models(database, name)
    service = chain_config(config)
    heads = chain_heads(service.stages)
    known = trained_digests(stored.base)
    files = find_files(captures, payloads)
    unseen = [file for file in files if file.digest not in known]
    if not unseen:
        raise UsageError(
            f"{stored.identity} was trained on every one of these files",
            where="evaluate",
            next_step="name captures that it was not trained on",
        )
    with shown_progress(quiet=as_json) as progress:
        collected = collect(
            unseen, service, repetitions=repetitions, every_byte=every_byte, cuts=(1,), progress=progress
        )
    document = {
        "model": stored.identity,
        "files": len(collected.used),
        "segments": len(collected.samples.features),
        "left_out": [str(file.path) for file in files if file.digest in known],
        **judge(collected, stored, heads, variant_stage(service.stages)),
    }
    _tell(document, as_json)


def read_models(database: Path, name: str) -> StoredModels:
    """The champions of this name and of the length alone."""
    with ProfileDatabase.open(database, read_only=True) as store:
        stored, size = store.champion(name), store.champion(name + SIZE_SUFFIX)
    if stored is None:
        raise UsageError("there is no such model", where=str(database), value=name, next_step="streamspec train")
    return StoredModels(load(stored.content), None if size is None else load(size.content), stored.identity)


def judge(collected: Collected, stored: StoredModels, heads: Sequence[Head], varied_stage: int) -> dict[str, Any]:
    """Errors by head, by chain and by type, for each of :data:`MODELS`, and the heads that the base model lacks."""
    features, values = collected.samples.features, collected.samples.values
    size, base = BasePredictor(stored.size, heads), BasePredictor(stored.base, heads)
    guesses: dict[str, Floats] = {
        "size": np.exp(size.predict_log(features)),
        "base": np.exp(base.predict_log(features)),
        "base_and_online": predict_and_learn(stored.base, heads, varied_stage, features, values),
    }
    out: dict[str, Any] = {"blind_heads": list(base.blind_heads), "heads": {}, "chains": {}, "types": {}}
    names = collected.samples.heads
    for model, guess in guesses.items():
        for name, found in head_errors(names, values, guess).items():
            out["heads"].setdefault(name, {})[model] = found
        for name, found in chain_errors(heads, values, guess).items():
            out["chains"].setdefault(name, {})[model] = found
        for kind, chains in by_type(heads, features, values, guess).items():
            for name, found in chains.items():
                out["types"].setdefault(kind, {}).setdefault(name, {})[model] = found
    return out


def predict_and_learn(
    base: BaseModel | None, heads: Sequence[Head], varied_stage: int, features: Features, values: Floats
) -> Floats:
    """Progressive validation of the online layer; variants take turns, as if their price moved.

    Returns:
        What was predicted of each head before it was learned, shape ``(n, heads)``.
    """
    layer = OnlineLayer(heads, base)
    variants = sum(head.stage == varied_stage and head.target == "useful_time" for head in heads) or 1
    out = np.full(values.shape, np.nan)
    for first in range(0, len(features), LEARNED_AT_ONCE):
        rows = slice(first, min(first + LEARNED_AT_ONCE, len(features)))
        lookup = ProfileLookup(layer.snapshot(first), base)
        out[rows] = [_of_heads(heads, profile) for profile in lookup.profiles(features[rows])]
        some = Measured(features[rows], values[rows])
        layer.learn(outcomes_of(heads, some, [number % variants for number in range(rows.start, rows.stop)]))
    return out


def _of_heads(heads: Sequence[Head], profile: ResourceProfile) -> list[float]:
    found = []
    for head in heads:
        stage = profile.stages[head.stage]
        if head.target == "useful_time":
            alone = stage.work_ns if head.is_default else float("nan")
            found.append(stage.variant_work_ns.get(head.cost_key, alone))
        else:
            found.append(stage.variant_ratio.get(head.cost_key, float("nan")))
    return found


def _tell(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(document, default=str) + "\n")
        sys.stdout.flush()
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(error_table("useful time of the whole chain, by variant", MODELS, document["chains"]))
    console.print(error_table("each head", MODELS, document["heads"]))
    chain = next(reversed(document["chains"]))
    types = {kind: chains[chain] for kind, chains in document["types"].items()}
    console.print(error_table(f"useful time of the whole chain by type ({chain})", MODELS, types))
    print(f"{document['model']} on {document['segments']} segments of {document['files']} files")
    if document["left_out"]:
        print(f"left out, because it was trained on them: {len(document['left_out'])} files")
    if document["blind_heads"]:
        print(f"not known to it, so predicted from the length: {', '.join(document['blind_heads'])}")
