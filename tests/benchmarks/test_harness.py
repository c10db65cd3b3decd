"""Contenders beside each other: who is measured, in which order, and what a line says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.proof.harness import Contender, Job, Measures, NotRun, Wrong, configuration_hash, run_job, write_results


def contender(name: str, order: list[str], **more: Any) -> Contender:
    def run(repeat: int) -> Measures:
        order.append(name)
        return {"packets_per_second": 100.0 + repeat}

    return Contender(name, run, lambda: f"{name} 1.0", **more)


def lines_of(job: Job, repeats: int = 3) -> list[dict[str, Any]]:
    return list(run_job(job, repeats, lambda text: None))


def test_repeats_are_interleaved_and_each_begins_with_another() -> None:
    order: list[str] = []
    lines_of(Job("C", [contender(name, order) for name in "abc"]))
    assert order == [*"abc", *"bca", *"cab"]


def test_what_is_wrong_or_cannot_run_is_listed_with_the_reason_and_not_measured() -> None:
    order: list[str] = []

    def missing() -> None:
        raise NotRun("x is not installed (Debian package x)")

    def wrong() -> Measures:
        raise Wrong("one flow too many")

    contenders = [
        contender("right", order, check=lambda: {"equal_packets_ratio": 1.0}),
        contender("missing", order, prepare=missing),
        contender("wrong", order, check=wrong),
    ]
    lines = lines_of(Job("C", contenders), repeats=2)
    assert [(line["contender"], line["repeat"], line["status"], line["reason"]) for line in lines] == [
        ("right", -1, "checked", ""),
        ("missing", -1, "not_run", "x is not installed (Debian package x)"),
        ("wrong", -1, "wrong", "one flow too many"),
        ("right", 0, "measured", ""),
        ("right", 1, "measured", ""),
    ]
    assert order == ["right", "right"]


def test_what_turns_out_wrong_while_measured_says_so() -> None:
    def run(repeat: int) -> Measures:
        raise Wrong("a line is torn")

    lines = lines_of(Job("B", [Contender("c", run, lambda: "")]), repeats=1)
    assert (lines[-1]["status"], lines[-1]["reason"], lines[-1]["measures"]) == ("wrong", "a line is torn", {})


def test_a_line_says_where_what_and_how() -> None:
    job = Job("C", [contender("c", [], settings={"threads": 2})], settings={"packets": 5}, seed=7, quick=True)
    line = lines_of(job, repeats=1)[-1]
    assert (line["job"], line["seed"], line["quick"], line["settings"]) == ("C", 7, True, {"threads": 2})
    assert set(line["host"]) == {"cpu", "cores", "kernel"}
    assert line["versions"]["contender"] == "c 1.0"
    assert line["versions"]["streamspec"]
    assert line["measures"] == {"packets_per_second": 100.0}


def test_the_hash_changes_with_any_setting_and_with_nothing_else() -> None:
    assert configuration_hash({"a": 1, "b": 2}, {}) == configuration_hash({"b": 2, "a": 1}, {})
    assert configuration_hash({"a": 1}, {}) != configuration_hash({"a": 2}, {})
    assert configuration_hash({"a": 1}, {}) != configuration_hash({}, {"a": 1})


def test_lines_of_quick_runs_leave_those_of_full_runs_alone(tmp_path: Path) -> None:
    full = write_results(Job("C", [contender("c", [])]), 2, tmp_path)
    quick = write_results(Job("C", [contender("c", [])], quick=True), 1, tmp_path)
    assert full != quick
    assert len(full.read_text().splitlines()) == 3
    assert [json.loads(line)["quick"] for line in quick.read_text().splitlines()] == [True, True]
    assert not list(tmp_path.glob("*.partial"))
