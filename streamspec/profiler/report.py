"""The features of files and captures for people: a table, JSON lines, charts by type.

A *row* is a dictionary: ``name`` and ``segment`` (its number in the file), ``type``, ``schema_version``, all
features by name, and ``patterns`` (matches by name of the group) when there are some.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.table import Table

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.features import FEATURE_NAMES, FEATURE_SCHEMA_VERSION, TYPE_NAMES
from streamspec.core.segment import PACKET
from streamspec.core.units import format_bytes
from streamspec.profiler.profiler import Content, Profiler

Row = dict[str, Any]
Named = tuple[str, Content]

BATCH = 64

COLUMNS = (
    ("entropy", "entropy_bits", "{:.2f}"),
    ("printable", "printable_share", "{:.0%}"),
    ("zero", "zero_share", "{:.0%}"),
    ("UTF-8", "utf8_valid_share", "{:.0%}"),
    ("base64", "base64_run_share", "{:.0%}"),
    ("repeated", "repetition_share", "{:.0%}"),
    ("LZ", "lz_ratio", "{:.2f}"),
    ("period", "period_bytes", "{:.0f}"),
)
"""Heading, feature and format of what the table shows."""

CHARTS = (
    ("length_bytes", "bytes"),
    ("entropy_bits", "entropy, bits"),
    ("printable_share", "printable"),
    ("repetition_share", "repeated 4-grams"),
    ("lz_ratio", "LZ ratio"),
    ("utf8_valid_share", "valid UTF-8"),
)
"""Features whose distributions are drawn, with their titles."""


# -- what to profile --------------------------------------------------------------------------
def cut_file(path: Path, segment_bytes: int) -> Iterator[Named]:
    """The file as segments of one message each, read piece by piece.

    Raises:
        DependencyUnavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while piece := file.read(segment_bytes):
                yield path.name, Content(piece)
    except OSError as error:
        raise DependencyUnavailable(
            f"cannot read the file: {error.strerror}", where=str(path), next_step="name a file that exists"
        ) from error


def cut_packets(name: str, packets: Iterable[bytes], link_type: int, segment_bytes: int) -> Iterator[Named]:
    """Captured packets as segments of at most ``segment_bytes`` (a longer packet is one of its own)."""
    held: list[bytes] = []
    size = 0
    for packet in packets:
        if held and size + len(packet) > segment_bytes:
            yield name, join_packets(held, link_type)
            held, size = [], 0
        held.append(packet)
        size += len(packet)
    if held:
        yield name, join_packets(held, link_type)


def join_packets(packets: Sequence[bytes], link_type: int) -> Content:
    """One segment of these packets, with its packet table."""
    table = np.zeros(len(packets), dtype=PACKET)
    sizes = np.array([len(packet) for packet in packets], dtype=np.uint32)
    table["captured_bytes"] = table["wire_bytes"] = sizes
    table["offset"] = np.cumsum(sizes) - sizes
    return Content(b"".join(packets), table, link_type)


# -- rows -------------------------------------------------------------------------------------
def rows_of(profiler: Profiler, named: Iterable[Named]) -> Iterator[Row]:
    """A row for each segment, in order; segments of the same name are numbered from 0."""
    remaining = iter(named)
    previous, number = "", 0
    while batch := list(itertools.islice(remaining, BATCH)):
        contents = [content for _, content in batch]
        features = profiler.profile_contents(contents)
        patterns = profiler.count_patterns_in(contents) if profiler.pattern_names else None
        for index, (name, _) in enumerate(batch):
            previous, number = name, number + 1 if name == previous else 0
            values = features[index].tolist()
            row: Row = {"name": name, "segment": number, "type": TYPE_NAMES[int(values[-1])]}
            row |= {"schema_version": FEATURE_SCHEMA_VERSION, **dict(zip(FEATURE_NAMES, values, strict=True))}
            if patterns is not None:
                counts = patterns[index, : len(profiler.pattern_names)].astype(int).tolist()
                row["patterns"] = dict(zip(profiler.pattern_names, counts, strict=True))
            yield row


def to_json_line(row: Row) -> bytes:
    """The row as one JSON object and a newline."""
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


# -- for the eye ------------------------------------------------------------------------------
def segment_table(rows: Iterable[Row]) -> Table:
    """A line for each segment."""
    table = Table(title="features by segment")
    table.add_column("name", overflow="fold")
    for heading in ("segment", "bytes", "packets"):
        table.add_column(heading, justify="right")
    table.add_column("type")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            str(row["segment"]),
            format_bytes(row["length_bytes"]),
            f"{row['packets']:.0f}",
            row["type"],
            *(form.format(row[feature]) for _, feature, form in COLUMNS),
        )
    return table


def type_table(rows: Sequence[Row]) -> Table:
    """A line for each type: its segments, bytes, and the means of what the other table shows, by segment."""
    table = Table(title="features by type")
    table.add_column("type")
    for heading in ("segments", "bytes", *(heading for heading, _, _ in COLUMNS)):
        table.add_column(heading, justify="right")
    for name, group in group_by_type(rows):
        means = {feature: float(np.mean([row[feature] for row in group])) for _, feature, _ in COLUMNS}
        table.add_row(
            name,
            str(len(group)),
            format_bytes(sum(row["length_bytes"] for row in group)),
            *(form.format(means[feature]) for _, feature, form in COLUMNS),
        )
    return table


def group_by_type(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """``(type, rows)``, the most frequent type first."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["type"], []).append(row)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def write_charts(rows: Sequence[Row], path: Path) -> None:
    """Distributions by type as one HTML file that needs no network.

    Raises:
        DependencyUnavailable: plotly is not installed, or the file cannot be written.
    """
    try:
        from plotly import graph_objects
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise DependencyUnavailable(
            "charts need the package plotly", where="profile --plot", next_step="pip install plotly"
        ) from error
    figure = make_subplots(rows=2, cols=3, subplot_titles=[title for _, title in CHARTS])
    palette = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#76b7b2", "#9c755f", "#edc948")
    for order, (name, group) in enumerate(group_by_type(rows)):
        for place, (feature, _) in enumerate(CHARTS):
            box = graph_objects.Box(
                y=[row[feature] for row in group],
                name=name,
                legendgroup=name,
                showlegend=place == 0,
                marker_color=palette[order % len(palette)],
                boxpoints="outliers",
            )
            figure.add_trace(box, row=place // 3 + 1, col=place % 3 + 1)
    figure.update_layout(title=f"{len(rows)} segments by type", template="plotly_white", height=900)
    figure.update_yaxes(type="log", row=1, col=1)
    try:
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise DependencyUnavailable(
            f"cannot write the charts: {error.strerror}", where=str(path), next_step="name a folder that exists"
        ) from error
