"""What instances tell each other: signed, plain arrays, and taken over where it is much better."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.interfaces import Rows
from streamspec.core.prediction import PREDICTION
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.shared_state import experience, is_worth_taking, seal, unseal
from streamspec.profiles.signing import SigningKey
from streamspec.testing.outcomes import HEADS, INSPECT, make_outcomes

CONFIG = LearningConfig(tree_cpu_share=0)
KEY, OTHER = SigningKey(b"k" * 32), SigningKey(b"o" * 32)
NAME = b"online/one"


def layer(rows: Rows | None = None, **options: str) -> OnlineLayer:
    made = OnlineLayer(HEADS, None, CONFIG, **options)  # type: ignore[arg-type]
    if rows is not None:
        made.learn(rows)
    return made


def log_error(of: OnlineLayer, rows: Rows) -> float:
    said = np.zeros(len(rows), dtype=PREDICTION)
    of.snapshot(1).predict(rows["features"], 0.5, said)
    return float(np.median(np.abs(np.log(said["work_ns"] / rows["useful_ns"].sum(1)))))


def test_a_cold_layer_starts_from_what_another_learned() -> None:
    experienced, cold, rows = layer(make_outcomes(1, 3000)), layer(), make_outcomes(2, 300)
    before = log_error(cold, rows)
    body = experienced.shared()
    assert cold.adopt(body) == 3  # those of the variant that ran
    assert cold.learned == experience(body) == 3000
    assert log_error(cold, rows) == pytest.approx(log_error(experienced, rows))
    assert log_error(cold, rows) < before / 3
    assert b"pickle" not in body
    assert cold.adopt(body) == 0  # who took over is experienced


def test_a_settled_layer_keeps_its_own() -> None:
    own = layer(make_outcomes(1, 600))
    kept = own.shared()
    assert own.adopt(layer(make_outcomes(2, 6000, slower=3.0)).shared()) == 0
    assert own.shared() == kept


def test_each_head_is_taken_for_itself() -> None:
    rows = make_outcomes(1, 3000)
    rows["useful_ns"][:, 1] = 0  # compressing was not measured here
    rows["payload_bytes_out"] = 0
    own = layer(rows)
    weights = own._heads.weights.copy()
    assert 0 < own.adopt(layer(make_outcomes(2, 20_000)).shared()) < 3
    np.testing.assert_array_equal(own._heads.weights[INSPECT], weights[INSPECT])


def test_on_a_slower_machine_a_few_outcomes_tell() -> None:
    """Against the same state without the doubt of the other machine's speed."""
    body = layer(make_outcomes(1, 3000)).shared()
    slower, rows = make_outcomes(2, 20, slower=2.0), make_outcomes(3, 300, slower=2.0)
    taken, settled = layer(), layer(make_outcomes(1, 3000))
    taken.adopt(body)
    for one in (taken, settled):
        one.learn(slower[:3])
    assert log_error(taken, rows) < 0.25 < log_error(settled, rows)


def test_of_another_base_model_it_is_refused_and_nothing_changes() -> None:
    own = layer(base_identity="a")
    before = own.shared()
    with pytest.raises(ContentRefused, match="another base model"):
        own.adopt(layer(make_outcomes(1, 500), base_identity="b").shared())
    assert own.shared() == before


def test_a_record_is_of_one_key_and_one_name() -> None:
    value = seal(KEY, NAME, b"body")
    assert unseal(KEY, NAME, value) == b"body"
    for key, name, wrong, told in (
        (OTHER, NAME, value, "another key"),
        (KEY, b"online/two", value, "forged"),
        (KEY, NAME, value[:-1] + b"!", "forged"),
        (KEY, NAME, b"", "not what an instance"),
    ):
        with pytest.raises(ContentRefused, match=told):
            unseal(key, name, wrong)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(data: st.DataObject) -> None:
    body = bytearray(SHARED)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    own = layer()
    try:
        own.adopt(bytes(body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body))
    except ContentRefused:
        return
    assert np.isfinite(own._heads.weights).all()


SHARED = layer(make_outcomes(1, 100)).shared()


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.floats(0.001, 0.5))
def test_nothing_goes_back_and_forth(one: int, other: int, adaptation: float) -> None:
    assert not (is_worth_taking(one, other, adaptation) and is_worth_taking(other, one, adaptation))
    assert not is_worth_taking(one, one, adaptation) or one == 0
