"""The page: the same for the same lines, honest about who is wrong or missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.proof.plots import Bar, bar_chart
from benchmarks.proof.report import amount, page, shortened
from benchmarks.proof.results import load


def a_line(job: str, contender: str, rate: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "job": job,
        "contender": contender,
        "status": "not_run" if rate is None else "measured",
        "reason": "",
        "seed": 1,
        "host": {"cpu": "CPU", "cores": 2, "kernel": "6"},
        "versions": {"streamspec": "abc", "contender": f"{contender} 1"},
        "measures": {} if rate is None else {"packets_per_second": rate, "lost": 0},
    } | more


def written(folder: Path, lines: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "lines.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return page(load(folder), folder / "results")


def test_medians_spread_and_ratios_and_the_best_first(tmp_path: Path) -> None:
    lines = [a_line("C", "streamspec", rate) for rate in (4e6, 5e6, 6e6)]
    lines += [a_line("C", name, rate) for name, rate in (("tshark", 1e5), ("nfstream", 2e5))]
    text = written(tmp_path, lines)
    rows = [row for row in text.splitlines() if row.startswith(("| streamspec", "| nfstream", "| tshark"))]
    assert rows == [
        "| streamspec | 1 | 5 M (4 M – 6 M) | 0 | 3 |",
        "| nfstream | 25 | 200,000 | 0 | 1 |",
        "| tshark | 50 | 100,000 | 0 | 1 |",
    ]
    assert "| C | packets/s, by nfstream's | 20 | 25 | yes |" in text
    assert "| C | packets/s, by those of tcpdump's bare copy | 1 | not measured |  |" in text


def test_a_missed_target_says_so(tmp_path: Path) -> None:
    lines = [a_line("C", "streamspec", 1e6), a_line("C", "tshark", 1e5)]
    assert "| C | packets/s, by tshark's | 35 | 10 | **no** |" in written(tmp_path, lines)


def test_who_is_wrong_has_no_speed_and_who_is_missing_a_reason(tmp_path: Path) -> None:
    lines = [
        a_line("C", "streamspec", 1e6),
        a_line("C", "fast", 9e9),
        a_line("C", "fast", None, status="wrong", reason="one flow too many"),
        a_line("C", "gone", None, reason="gone is not installed (Debian package gone)"),
        a_line("C", "lossy", 9e9, measures={"packets_per_second": 9e9, "correct": False}),
    ]
    text = written(tmp_path, lines)
    assert "9e" not in text
    assert "9,000" not in text
    assert "- fast: wrong: one flow too many" in text
    assert "- lossy: wrong: its output differs from the reference" in text
    assert "- gone: not run: gone is not installed (Debian package gone)" in text


def test_quick_lines_count_only_where_there_are_no_others(tmp_path: Path) -> None:
    quick = [a_line("C", "streamspec", 7.0, quick=True), a_line("B", "streamspec", 8.0, quick=True)]
    text = written(tmp_path, [*quick, a_line("C", "streamspec", 5.0)])
    assert "| streamspec | 1 | 5 |" in text
    assert "| streamspec | 1 | 7 |" not in text
    assert text.count("From a quick run") == 1


def test_light_latency_is_compared_at_the_best_peers_capacity(tmp_path: Path) -> None:
    lines = []
    for name, capacity, latency in (("streamspec", 30.0, 0.5), ("fast", 20.0, 0.4), ("slow", 10.0, 0.1)):
        lines.append(a_line("A", name, 1.0, phase="saturation", measures={"records_per_second": capacity}))
        measures = {"light_p99_seconds": latency}
        lines.append(a_line("A", name, 1.0, phase="90% of own capacity", measures=measures))
    at_best = {"light_p99_seconds": 0.02}
    lines.append(a_line("A", "streamspec", 1.0, phase="90% of the best peer's capacity", measures=at_best))
    text = written(tmp_path, lines)
    assert "the peer's by ours | 10 | 20 | yes |" in text
    assert "| A | records/s at saturation, by the best peer's | 1.5 | 1.5 | yes |" in text
    assert "### 90% of own capacity" in text


def test_the_same_lines_give_the_same_page_and_plots(tmp_path: Path) -> None:
    lines = [a_line("C", "streamspec", 4e6), a_line("C", "a & b", 1e5)]
    first, second = written(tmp_path / "one", lines), written(tmp_path / "two", lines)
    assert first == second
    plots = [(tmp_path / name / "results" / "c.svg").read_text() for name in ("one", "two")]
    assert plots[0] == plots[1]
    ElementTree.fromstring(plots[0])


@pytest.mark.parametrize("largest", [2.0, 1e6])
def test_bars_stay_within_the_picture(largest: float) -> None:
    bars = [Bar("a", 1.0, 0.5, 1.5, "1"), Bar("b", largest, largest, largest, "b", ours=True), Bar("c", 0, 0, 0, "0")]
    root = ElementTree.fromstring(bar_chart("t", "u", bars))
    drawn = [one for one in root.iter("{http://www.w3.org/2000/svg}rect") if one.get("x")]
    assert len(drawn) == 2
    assert all(
        float(one.get("width", 0)) > 0 and float(one.get("x", 0)) + float(one.get("width", 0)) < 760 for one in drawn
    )


def test_amounts_and_reasons_are_short() -> None:
    assert amount("p99_seconds", 0.01234) == "12.3 ms"
    assert amount("peak_memory_bytes", 3 << 20) == "3 MiB"
    assert amount("packets_per_second", 5_432_100.0) == "5.43 M"
    assert len(shortened("word " * 500)) < 260
