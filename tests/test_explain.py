"""``streamspec explain`` on a real ledger: what a service decided stays readable after it has stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from streamspec.assembly.ledger import Ledger
from streamspec.cli import main
from streamspec.core.control import Decision, Effect, Forecast, LanePlan, Observation, Plan, Proposal, Refusal, Settled
from streamspec.core.resources import Allocation
from streamspec.explain import stored_decisions
from streamspec.profiles.database import ProfileDatabase
from streamspec.telemetry.decisions import DecisionLog

ONE = Plan((LanePlan("all", Allocation(workers=1)),))
STEP = Proposal("workers", "all", 1, 2, "up", "late", "the first waits 40 ms", Effect(miss_ratio=0.001))


def _decision(number: int, **changes: object) -> Decision:
    plain = Decision(number, 1.7e9 + number, "auto", ("planner",), Observation(1.0), Forecast(), ONE, ONE)
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "profiles.db"
    with ProfileDatabase.open(path) as database:
        ledger = Ledger(DecisionLog(), database)
        refused = Refusal(STEP, "cooldown", "raised a moment ago")
        ledger(_decision(1, done=(STEP,), expected=STEP.expected))
        ledger(_decision(2, refused=(refused,)))
        ledger(_decision(3, refused=(refused,)))
        ledger(_decision(4, settled=(Settled(1, "kept", Effect(miss_ratio=0.002), "misses fell"),)))
        ledger.close()
    return path


def test_a_stopped_service_explains_itself_in_sentences(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--database", str(path)]) == 0
    told = capsys.readouterr().out
    assert "#1 kept: all: workers 1 to 2 (the first waits 40 ms)" in told
    assert "expected miss ratio 0.001; measured miss ratio 0.002" in told
    assert "misses fell" in told
    assert "#2 refused: not all: workers 1 to 2 (the first waits 40 ms): raised a moment ago" in told


def test_a_refusal_that_only_repeats_the_one_before_is_written_once(path: Path) -> None:
    assert [view["number"] for view in stored_decisions(path, 10)] == [1, 2]


def test_machines_get_one_object_per_decision(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--database", str(path), "--last", "1", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["number"] == 2


def test_a_service_that_does_not_answer_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--url", "http://127.0.0.1:9"]) == 69
    assert "does not answer" in capsys.readouterr().err


def test_a_database_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--database", str(tmp_path / "none.db")]) == 69
    assert "none.db" in capsys.readouterr().err
