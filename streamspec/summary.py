"""What a run comes to, for people: a table on a terminal, one log line otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from streamspec.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.table import Table

Summary = Mapping[str, Any]
"""What ``Service.summary`` gives, times in seconds; of the demo with ``generator``, the report of what was sent."""


def tell_summary(summary: Summary, *, table: bool = False) -> None:
    """Write the summary to standard error: a table on a terminal or when asked for, else a log line."""
    if table or sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True).print(summary_table(summary))
    else:
        import structlog

        names = ("segments_received", "segments_delivered", "segments_shed", "segments_dead_lettered", "segments_lost")
        counts = {name: summary[name] for name in (*names, "bytes_received")}
        structlog.get_logger("streamspec.app").info("finished", **counts, always=True)


def summary_table(summary: Summary) -> Table:
    """A table of two columns: what was received, what became of it, how fast."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_header=False, title="streamspec", title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in rows(summary):
        table.add_row(*row)
    return table


def rows(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """``(what, amount, remark)`` of each line of the table."""
    sent = summary.get("generator") or {}
    # The demo's service also waits for the generator to start and for the last packets to come.
    seconds = float(sent.get("seconds") or summary["elapsed_seconds"])
    received, delivered = int(summary["segments_received"]), int(summary["segments_delivered"])
    bytes_in, bytes_out = int(summary["bytes_received"]), int(summary["bytes_delivered"])
    yield "time", format_seconds(seconds), ""
    if sent:
        yield "messages sent", f"{sent['messages']:,}", f"{sent['messages_per_second']:,.0f}/s"
    yield "packets received", f"{summary['packets_received']:,}", f"{summary['packets_received'] / seconds:,.0f}/s"
    yield "segments received", f"{received:,}", f"{received / seconds:,.0f}/s"
    yield "bytes received", format_bytes(bytes_in), f"{format_bytes(bytes_in / seconds)}/s"
    yield "segments delivered", f"{delivered:,}", f"{format_bytes(bytes_out)} out" + _ratio(bytes_out, bytes_in)
    yield "segments shed", f"{summary['segments_shed']:,}", counts_text(summary["shed_reasons"])
    yield "segments dead-lettered", f"{summary['segments_dead_lettered']:,}", ""
    yield (
        "segments lost",
        f"{summary['segments_lost']:,}",
        "" if not summary["segments_lost"] else "a bug: please report",
    )
    yield from _latencies(summary)
    for role in ("sources", "stages", "sinks"):
        for name, counts in summary[role].items():
            if counts:
                yield f"{role}.{name}", "", counts_text(counts)
    if summary["records"]:
        yield "records", "", counts_text(summary["records"])


def _latencies(summary: Summary) -> Iterator[tuple[str, str, str]]:
    latency = summary["latency_seconds"]
    if latency["p99"] is not None:
        yield "latency p50 / p99", f"{format_seconds(latency['p50'])} / {format_seconds(latency['p99'])}", "to delivery"
    lanes = summary["lanes"]
    for name, lane in lanes.items() if len(lanes) > 1 else ():
        if lane["p99"] is not None:
            yield f"  lane {name}", f"{format_seconds(lane['p50'])} / {format_seconds(lane['p99'])}", ""


def _ratio(bytes_out: int, bytes_in: int) -> str:
    return f" ({bytes_out / bytes_in:.0%})" if bytes_in else ""


def counts_text(counts: Mapping[str, int]) -> str:
    """``{"alerts": 1200, "bytes_in": 2048}`` -> ``alerts 1,200, bytes_in 2.0 KiB``."""
    return ", ".join(
        f"{name} {format_bytes(count) if 'bytes' in name.split('_') else f'{count:,}'}"
        for name, count in counts.items()
    )
