"""The schema is data that a stored model can rely on."""

from __future__ import annotations

import numpy as np

from streamspec.core.features import (
    FEATURE_COUNT,
    FEATURE_INDEX,
    FEATURE_NAMES,
    FEATURE_SCHEMA_VERSION,
    FEATURES,
    MAX_PATTERN_GROUPS,
    TYPE_CODES,
    TYPE_NAMES,
)
from streamspec.core.outcome import OUTCOME


def test_names_are_unique_and_in_the_order_of_the_columns() -> None:
    assert len(set(FEATURE_NAMES)) == FEATURE_COUNT == len(FEATURES)
    assert [FEATURE_INDEX[name] for name in FEATURE_NAMES] == list(range(FEATURE_COUNT))


def test_each_feature_says_what_it_is() -> None:
    for feature in FEATURES:
        assert feature.unit in {"bytes", "packets", "bits", "values", "share", "code"}, feature
        assert feature.sampling in {"exact", "estimate", "lower_bound", "probe"}, feature
        assert feature.low < feature.high, feature
        assert feature.description, feature


def test_an_outcome_has_room_for_all_of_them() -> None:
    assert OUTCOME["features"].shape == (FEATURE_COUNT,)
    assert OUTCOME["features"].base == np.dtype("<f4")


def test_types_are_numbered_from_unknown_on() -> None:
    assert TYPE_NAMES[0] == "unknown"
    assert [TYPE_CODES[name] for name in TYPE_NAMES] == list(range(len(TYPE_NAMES)))
    assert len(TYPE_NAMES) <= 16  # votes are counted in four bits each


def test_version_one_is_these_columns() -> None:
    """Whoever changes a column raises the version and adds a line here."""
    versions = {1: (44, "length_bytes", "type_code")}
    assert versions[FEATURE_SCHEMA_VERSION] == (FEATURE_COUNT, FEATURE_NAMES[0], FEATURE_NAMES[-1])
    assert MAX_PATTERN_GROUPS == 16
