"""What the demo shows while it runs: a live view on a terminal, a line every few seconds otherwise."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from streamspec.core.units import format_bytes, format_seconds
from streamspec.summary import counts_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_BARS = "▁▂▃▄▅▆▇█"
LINE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The service at one moment, and its rates since the moment before."""

    summary: Mapping[str, Any]
    sent: Mapping[str, Any]
    seconds: float
    packets_per_second: float
    segments_per_second: float
    bytes_per_second: float


class Rates:
    """Makes samples out of successive summaries."""

    def __init__(self) -> None:
        self._last: Mapping[str, Any] | None = None

    def sample(self, summary: Mapping[str, Any], sent: Mapping[str, Any]) -> Sample:
        """``summary`` with rates since the last call (zero at the first)."""
        last, self._last = self._last or summary, summary
        passed = max(float(summary["elapsed_seconds"]) - float(last["elapsed_seconds"]), 1e-3)

        def rate(name: str) -> float:
            return (int(summary[name]) - int(last[name])) / passed

        return Sample(
            summary,
            sent,
            summary["elapsed_seconds"],
            rate("packets_received"),
            rate("segments_received"),
            rate("bytes_received"),
        )


class Display(Protocol):
    """Shows samples."""

    def show(self, sample: Sample) -> None:
        """Called a few times per second."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class NoDisplay:
    """Shows nothing."""

    def show(self, sample: Sample) -> None:
        pass

    def close(self) -> None:
        pass


class LineDisplay:
    """One line on standard error every two seconds."""

    def __init__(self) -> None:
        self._next_seconds = LINE_SECONDS

    def show(self, sample: Sample) -> None:
        if sample.seconds < self._next_seconds or not sample.sent:
            return
        self._next_seconds = sample.seconds + LINE_SECONDS
        summary = sample.summary
        print(
            f"{sample.seconds:6.1f} s  {sample.packets_per_second:>9,.0f} packets/s  "
            f"{format_bytes(sample.bytes_per_second):>10}/s  p99 {_duration(summary['latency_seconds']['p99']):>8}  "
            f"delivered {summary['segments_delivered']:,}  shed {summary['segments_shed']:,}",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        pass


class LiveDisplay:
    """A table that is drawn anew in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # No refresh thread: the demo's own loop says when.
        self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
        self._history: deque[float] = deque(maxlen=48)
        self._live.start()

    def show(self, sample: Sample) -> None:
        self._history.append(sample.bytes_per_second)
        self._live.update(view(sample, sparkline(self._history)), refresh=True)

    def close(self) -> None:
        self._live.stop()


def view(sample: Sample, history: str) -> RenderableType:
    """The live view of one sample."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    summary, latency = sample.summary, sample.summary["latency_seconds"]
    rates = Table(box=box.SIMPLE_HEAD, title=f"streamspec demo  {sample.seconds:.1f} s", title_justify="left")
    for heading in ("packets/s", "segments/s", "bytes/s", "in flight", "p50", "p99", "shed", "dead letters"):
        rates.add_column(heading, justify="right")
    rates.add_row(
        f"{sample.packets_per_second:,.0f}",
        f"{sample.segments_per_second:,.0f}",
        format_bytes(sample.bytes_per_second),
        f"{summary['segments_in_flight']:,}",
        _duration(latency["p50"]),
        _duration(latency["p99"]),
        f"{summary['segments_shed']:,}",
        f"{summary['segments_dead_lettered']:,}",
    )
    lanes = Table(box=box.SIMPLE_HEAD)
    for heading in ("lane", "workers", "queued", "p50", "p99"):
        lanes.add_column(heading, justify="left" if heading == "lane" else "right")
    for name, lane in summary["lanes"].items():
        lanes.add_row(name, str(lane["workers"]), f"{lane['queued']:,}", _duration(lane["p50"]), _duration(lane["p99"]))
    lines = [history if sample.sent else "the traffic generator starts ..."]
    lines += [f"{name}: {counts_text(counts)}" for name, counts in summary["stages"].items() if counts]
    if summary["records"]:
        lines.append(f"records: {counts_text(summary['records'])}")
    return Group(rates, lanes, Text("\n".join(f" {line}" for line in lines), style="dim"))


def sparkline(values: deque[float]) -> str:
    """One block character per value, scaled to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_BARS[min(int(value / top * len(_BARS)), len(_BARS) - 1)] for value in values)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)
