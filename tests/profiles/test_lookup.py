"""A profile for a feature vector, from what a learner and a training left in the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamspec.core.features import FEATURE_COUNT, FEATURE_INDEX
from streamspec.core.interfaces import Rows
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import Features, chain_heads
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.head_plan import BasePredictor
from streamspec.profiles.lookup import SIZE_ALONE, ProfileLookup
from streamspec.profiles.online import OnlineLayer
from streamspec.stages.compress import CompressConfig
from streamspec.stages.map import MapConfig

CHAIN = (
    MapConfig(type="map", function="tests.stages_for_tests:upper"),
    CompressConfig(type="compress", levels=(3, 9), level=9),
)
HEADS = chain_heads(CHAIN)


pytestmark = pytest.mark.timeout(180)
"""The first use of a kernel compiles it."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[ProfileDatabase]:
    with ProfileDatabase.open(tmp_path / "profiles.db") as opened:
        yield opened


def no_base(content: bytes) -> BasePredictor:
    raise AssertionError("there is no base model to be read")


def segments(count: int) -> Features:
    numbers = np.random.default_rng(1)
    features = np.zeros((count, FEATURE_COUNT), dtype=np.float32)
    features[:, FEATURE_INDEX["length_bytes"]] = numbers.integers(2_000, 60_000, count)
    features[:, FEATURE_INDEX["entropy_bits"]] = numbers.uniform(2, 7, count)
    return features


def outcomes(features: Features) -> Rows:
    """A map of 2 ns a byte; level 3 takes 5 ns a byte and level 9 20; both halve the payload."""
    rows = np.zeros(len(features), dtype=OUTCOME)
    length = features[:, FEATURE_INDEX["length_bytes"]].astype(np.int64)
    rows["length"], rows["payload_bytes_out"], rows["profiled"], rows["features"] = length, length // 2, 1, features
    rows["variant"] = -1
    rows["variant"][:, 1] = np.arange(len(rows)) % 2
    rows["useful_ns"][:, 0] = 2 * length
    rows["useful_ns"][:, 1] = np.where(rows["variant"][:, 1] == 0, 5, 20) * length
    return rows


def test_without_any_model_size_alone_answers(database: ProfileDatabase) -> None:
    lookup = ProfileLookup.open(database, HEADS, no_base)
    assert (lookup.models, lookup.refusals) == ((SIZE_ALONE,), ())
    small, large = lookup.profiles(np.sort(segments(2), axis=0))
    assert 0 < small.work_ns < large.work_ns <= large.upper_ns


@pytest.mark.slow
def test_what_was_learned_online_answers_by_stage_and_variant(database: ProfileDatabase) -> None:
    layer = OnlineLayer(HEADS)
    features = segments(1_000)
    for batch in np.split(outcomes(features), 20):
        layer.learn(batch)
    database.store_online_state("online", layer.state())
    lookup = ProfileLookup.open(database, HEADS, no_base)
    assert lookup.models == ("online",)
    for row, profile in enumerate(lookup.profiles(features[:20])):
        length = float(features[row, FEATURE_INDEX["length_bytes"]])
        first, second = profile.stages
        assert first.work_ns == pytest.approx(2 * length, rel=0.2)
        assert first.variant_ratio == {}
        assert second.variant_work_ns == pytest.approx(
            {"compress:zstd:3": 5 * length, "compress:zstd:9": 20 * length}, rel=0.2
        )
        assert second.variant_ratio == pytest.approx({"compress:zstd:3": 0.5, "compress:zstd:9": 0.5}, rel=0.1)
        assert second.work_ns == second.variant_work_ns["compress:zstd:9"]
        assert profile.work_ns == pytest.approx(first.work_ns + second.work_ns, rel=1e-4)
        assert profile.upper_ns > profile.work_ns
        assert lookup.profile(features[row]) == profile


def test_what_is_refused_is_left_out_and_told(database: ProfileDatabase) -> None:
    database.store_online_state("online", b"no state")
    fields = {"heads": [], "training_set": {}, "metrics": {}}
    database.store_model("base", b"", kind="trees", role="champion", feature_schema=99, **fields)  # type: ignore[arg-type]
    lookup = ProfileLookup.open(database, HEADS, no_base)
    assert lookup.models == (SIZE_ALONE,)
    schema, state = lookup.refusals
    assert "model base:1: was trained for features of schema 99" in schema
    assert "damaged" in state
