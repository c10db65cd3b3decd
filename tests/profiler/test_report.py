"""Features for people: rows, tables, JSON lines, charts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.features import FEATURE_NAMES, FEATURE_SCHEMA_VERSION, TYPE_NAMES
from streamspec.core.segment import LINK_ETHERNET
from streamspec.profiler.config import ProfilerConfig
from streamspec.profiler.profiler import Profiler
from streamspec.profiler.report import (
    Row,
    cut_file,
    cut_packets,
    group_by_type,
    rows_of,
    segment_table,
    to_json_line,
    type_table,
    write_charts,
)
from tests.profiler.samples import MESSAGES, tcp_frame


@pytest.fixture
def rows(tmp_path: Path, sampling: Profiler) -> list[Row]:
    (tmp_path / "lines.json").write_bytes(b'{"name": "value", "number": 12}\n' * 3000)
    (tmp_path / "zeros").write_bytes(bytes(5000))
    frames = [tcp_frame(message[:1400]) for message in MESSAGES["http"] * 20]
    named = [
        *cut_file(tmp_path / "lines.json", 16384),
        *cut_file(tmp_path / "zeros", 16384),
        *cut_packets("web", frames, LINK_ETHERNET, 4096),
    ]
    return list(rows_of(sampling, named))


def test_a_row_for_each_segment_with_every_feature(rows: list[Row]) -> None:
    assert [(row["name"], row["segment"]) for row in rows[:7]] == [
        *(("lines.json", number) for number in range(6)),
        ("zeros", 0),
    ]
    assert {row["type"] for row in rows} == {"json", "padding", "http"}
    for row in rows:
        assert set(FEATURE_NAMES) < set(row)
        assert row["schema_version"] == FEATURE_SCHEMA_VERSION
        assert row["type"] == TYPE_NAMES[int(row["type_code"])]


def test_segments_keep_to_their_size_and_lose_nothing(rows: list[Row]) -> None:
    assert sum(row["length_bytes"] for row in rows[:6]) == 32 * 3000
    assert max(row["length_bytes"] for row in rows if row["name"] == "web") <= 4096
    assert sum(row["packets"] for row in rows if row["name"] == "web") == 100


def test_a_packet_longer_than_a_segment_is_one_of_its_own() -> None:
    cut = [content for _, content in cut_packets("x", [b"a" * 10, b"b" * 5000, b"c" * 10], 1, 1000)]
    assert [len(content.payload) for content in cut] == [10, 5000, 10]


def test_json_lines_can_be_read_back(rows: list[Row]) -> None:
    lines = b"".join(map(to_json_line, rows)).splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_matches_of_patterns_are_in_the_row() -> None:
    profiler = ProfilerConfig(patterns={"verbs": ("GET",), "never": ("neverthere",)}).build()
    (row,) = rows_of(profiler, cut_packets("x", [tcp_frame(MESSAGES["http"][0])], LINK_ETHERNET, 4096))
    assert row["patterns"] == {"verbs": 1, "never": 0}


def test_more_segments_than_one_batch_keep_their_numbers(sampling: Profiler) -> None:
    named = cut_packets("x", [bytes(100)] * 150, -1, 100)
    assert [row["segment"] for row in rows_of(sampling, named)] == list(range(150))


def _shown(table: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return written


def test_the_tables_show_each_segment_and_each_type(rows: list[Row]) -> None:
    by_segment, by_type = _shown(segment_table(rows)), _shown(type_table(rows))
    assert by_segment.count("lines.json") == 6
    for name in ("json", "padding", "http"):
        assert name in by_type
    assert "entropy" in by_type


def test_types_are_grouped_by_frequency(rows: list[Row]) -> None:
    groups = group_by_type(rows)
    assert [len(group) for _, group in groups] == sorted((len(group) for _, group in groups), reverse=True)
    assert sum(len(group) for _, group in groups) == len(rows)


@pytest.mark.slow
def test_charts_are_one_file_that_needs_no_network(rows: list[Row], tmp_path: Path) -> None:
    path = tmp_path / "charts.html"
    write_charts(rows, path)
    page = path.read_text()
    assert '<script src="http' not in page
    assert len(page) > 1_000_000  # the library is within
    for name in ("json", "padding", "http", "entropy, bits"):
        assert name in page


def test_a_folder_that_does_not_exist_is_one_clear_line(rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(DependencyUnavailable, match=r"cannot write the charts.*next:"):
        write_charts(rows, tmp_path / "missing" / "charts.html")


def test_charts_without_plotly_say_what_to_install(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(DependencyUnavailable, match="pip install plotly"):
        write_charts(rows, tmp_path / "charts.html")


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DependencyUnavailable, match=r"nothing_here: cannot read the file"):
        list(cut_file(tmp_path / "nothing_here", 4096))


def test_values_are_plain_numbers(rows: list[Row]) -> None:
    assert not any(isinstance(value, np.generic) for value in rows[0].values())
