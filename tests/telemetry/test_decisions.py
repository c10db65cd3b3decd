"""Decisions as people read them, and one log line each."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from streamspec.core.control import Effect, LanePlan, Settled
from streamspec.core.resources import Allocation
from streamspec.telemetry import decisions as module
from streamspec.telemetry.decisions import DecisionLog, DecisionView, decision_view, shown
from streamspec.telemetry.logging import configure_logging
from streamspec.testing.clock import ManualClock
from streamspec.testing.status import decision


def test_a_sentence_says_what_was_done_and_what_was_not_and_why() -> None:
    view = decision_view(replace(decision(7), fallback="features are not finite"))
    assert view.sentence == (
        "bulk: workers 1 to 2 (1.4 s/s of work against 0.9 s/s). "
        "not small: batch 16 to 32 (cheap segments): it changed 3 s ago. "
        "predictions are not used: features are not finite"
    )


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "applied"),
        ({"mode": "recommend"}, "recommended"),
        ({"done": ()}, "refused"),
        ({"verdict": "undone"}, "undone"),
    ],
)
def test_the_outcome_is_one_word(change: dict[str, object], outcome: str) -> None:
    assert decision_view(replace(decision(1), **change)).outcome == outcome  # type: ignore[arg-type]


def test_numbers_that_are_not_finite_are_left_out() -> None:
    view = decision_view(decision(1))
    assert "drain_seconds" not in view.forecast
    assert all(math.isfinite(value) for value in [*view.seen.values(), *view.forecast.values()])
    assert view.expected == {"miss_ratio": 0.005, "workers": 2.0}


def test_numbers_of_numpy_become_plain_ones() -> None:
    step = replace(decision(1).done[0], before=np.int64(1), after=np.float64(2.5), expected=Effect(np.float64(0.1)))  # type: ignore[arg-type]
    view = decision_view(replace(decision(1), done=(step,), expected=step.expected))
    assert json.loads(json.dumps([view.steps[0].before, view.steps[0].after, view.expected])) == [
        1.0,
        2.5,
        {"miss_ratio": 0.1},
    ]
    assert view.sentence.startswith("bulk: workers 1 to 2.5")


def test_a_listener_that_fails_does_not_reach_the_controller() -> None:
    def broken(view: DecisionView) -> None:
        raise RuntimeError("no")

    log = DecisionLog(listeners=[broken])
    log.add(decision(1))
    assert len(log.last(1)) == 1


def test_what_came_of_a_decision_is_told_with_it() -> None:
    log, told = DecisionLog(), list[DecisionView]()
    log.listeners.append(told.append)
    settled = Settled(1, "undone", Effect(miss_ratio=0.3), "misses rose")
    log.add(decision(1))
    log.repeat(replace(decision(2), done=()))
    log.settle(settled)
    (view,) = log.last(10)
    assert (view.outcome, view.measured, view.why) == ("undone", {"miss_ratio": 0.3}, "misses rose")
    assert [each.outcome for each in told] == ["applied", "undone"]
    assert log.outcomes == {"applied": 1, "undone": 1}
    assert log.refusals == {"cooldown": 2}


def test_what_is_settled_after_it_was_forgotten_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_DECISIONS", 3)
    log = DecisionLog()
    for number in range(1, 6):
        log.add(decision(number))
    log.settle(Settled(1, "kept", Effect()))
    assert [view.number for view in log.last(10)] == [5, 4, 3]
    assert log.outcomes == {"applied": 5, "kept": 1}


def test_every_decision_is_a_log_line_and_repeated_refusals_are_held_back() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream, clock=ManualClock())
    log = DecisionLog()
    for number in range(1, 4):
        log.add(decision(number))
    for number in range(4, 10):
        log.add(replace(decision(number), done=()))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["number"] for line in lines if line["outcome"] == "applied"] == [1, 2, 3]
    assert len([line for line in lines if line["outcome"] == "refused"]) <= 1
    assert lines[0]["sentence"].startswith("bulk: workers 1 to 2")


def test_values_of_knobs_are_words() -> None:
    assert shown(frozenset()) == "any"
    assert shown(frozenset({3, 1})) == "1,3"
    lanes = (LanePlan("light", Allocation(workers=1), up_to_work_ns=2e6), LanePlan("heavy", Allocation(3, 5)))
    assert shown(lanes) == "light up to 2 ms (1 worker) + heavy (3 workers, nice 5)"
