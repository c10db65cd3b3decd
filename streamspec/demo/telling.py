"""The end of the demo for people: what became of the traffic, and the controlled run beside the one without control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from streamspec.core.units import format_bytes, format_seconds
from streamspec.summary import summary_table

EXPLANATION = (
    "Same load, same seed. off: one shared queue, the workers and the compression level of the configuration. "
    "Light and heavy half: by the work that one model predicts of each segment. Missed: later than the objective, "
    "shed or dead-lettered. Learning counts."
)


def tell(summary: Mapping[str, Any]) -> None:
    """Write tables to standard error."""
    console = Console(stderr=True, highlight=False)
    console.print(summary_table(summary))
    if "comparison" in summary:
        console.print(_comparison(summary["comparison"]))
        console.print(EXPLANATION, style="dim")


def _comparison(comparison: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="with control, and without", title_justify="left")
    for heading in ("", "controlled", "off"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in _rows(comparison):
        table.add_row(*row)
    return table


def _rows(comparison: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    def both(name: str, tell: Any) -> tuple[str, str]:
        return tell(comparison[name]["controlled"]), tell(comparison[name]["off"])

    yield "objective missed", *both("missed_ratio", lambda ratio: f"{ratio:.2%}")
    for name, what in (
        ("latency_seconds", "latency p50 / p99"),
        ("light_half_seconds", "  light half"),
        ("heavy_half_seconds", "  heavy half"),
    ):
        yield what, *both(name, lambda latency: f"{_duration(latency['p50'])} / {_duration(latency['p99'])}")
    yield "worker-seconds", *both("worker_seconds", lambda seconds: f"{seconds:.1f}")
    yield "  of them at work", *both("useful_seconds", lambda seconds: f"{seconds:.1f}")
    yield "packets dropped by the kernel", *both("packets_dropped", lambda packets: f"{packets:,}")
    yield "bytes in", *both("bytes_received", format_bytes)
    yield "bytes out", *both("payload_bytes_out", format_bytes)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)
