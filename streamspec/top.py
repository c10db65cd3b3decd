"""``streamspec top``: the dashboard for a terminal, of a local or a remote service, over its HTTP API."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.units import format_bytes, format_seconds
from streamspec.running_service import RunningService

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

HISTORY_POINTS = 60
SHOWN_DECISIONS = 6
SETTINGS = ("workers", "nice", "cores", "batch")
_BARS = "▁▂▃▄▅▆▇█"

State = Mapping[str, Any]
"""What ``/api/v1/state`` answers."""


def run_top(url: str, token: str | None, *, once: bool, as_json: bool, interval_seconds: float = 1.0) -> int:
    """Show the service until it is interrupted, or once. Returns the exit code."""
    from rich.console import Console

    service = RunningService(url, token, where="top")
    if as_json:
        print(json.dumps(service.get("state"), indent=2 if sys.stdout.isatty() else None))
        return 0
    console = Console(markup=False, highlight=False)
    state = service.get("state")
    view = View(service.url)
    view.begin(service.get(f"history?limit={HISTORY_POINTS}"))
    view.decisions = service.get(f"decisions?limit={SHOWN_DECISIONS}")
    if once or not console.is_terminal:
        console.print(view.render(state))
        return 0
    try:
        _follow(service, view, state, console, interval_seconds)
    except KeyboardInterrupt:
        pass
    return 0


def _follow(service: RunningService, view: View, state: State, console: Console, interval_seconds: float) -> None:
    from rich.live import Live

    with Live(view.render(state), console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(interval_seconds)
            try:
                state = service.get("state")
                view.decisions = service.get(f"decisions?limit={SHOWN_DECISIONS}")
                view.note(state)
                view.lost = ""
            except DependencyUnavailable as error:
                view.lost = error.what
            live.update(view.render(state), refresh=True)


class View:
    """What is drawn of a state, with the last minute of it.

    Args:
        url: told in the heading.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.lost = ""
        self.decisions: list[Mapping[str, Any]] = []
        self._bytes: deque[float] = deque(maxlen=HISTORY_POINTS)
        self._latency: deque[float] = deque(maxlen=HISTORY_POINTS)

    def begin(self, points: list[Mapping[str, Any]]) -> None:
        """Take the history so far."""
        for point in points:
            self._bytes.append(point["received_bytes"])
            self._latency.append(max((lane[3] or 0.0 for lane in point["lanes"].values()), default=0.0))

    def note(self, state: State) -> None:
        """Take one more second."""
        self._bytes.append(state["rates"]["received_bytes"])
        self._latency.append(max((lane["latency_high_seconds"] or 0.0 for lane in state["lanes"]), default=0.0))

    def render(self, state: State) -> RenderableType:
        """Everything, from top to bottom."""
        from rich.console import Group

        parts = [self._heading(state), self._rates(state), _lanes(state), _content(state), _health(state)]
        if self.decisions:
            parts.append(_decisions(self.decisions))
        return Group(*parts)

    def _heading(self, state: State) -> RenderableType:
        from rich.text import Text

        objective = state["objective"]
        met = {True: ("met", "green"), False: ("missed", "bold red"), None: ("no traffic", "dim")}[objective["met"]]
        text = Text.assemble(
            ("streamspec ", "bold"),
            (f"{self.url}  {state['phase']}  control {state['control']['mode']}  ", ""),
            f"{objective['percentile']:g} % within {format_seconds(objective['latency_seconds'])}: ",
            met,
            (f"  up {_span(state['uptime_seconds'])}", "dim"),
        )
        if self.lost:
            text.append(f"  connection lost: {self.lost}", "bold red")
        return text

    def _rates(self, state: State) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        rates, arena, totals = state["rates"], state["arena"], state["totals"]
        table = Table.grid(padding=(0, 2))
        table.add_row("throughput", Text(sparkline(self._bytes), "cyan"), f"{format_bytes(rates['received_bytes'])}/s")
        highest = f"{format_seconds(self._latency[-1])}" if self._latency and self._latency[-1] else "-"
        table.add_row("latency", Text(sparkline(self._latency), "magenta"), f"{highest} in the worst lane")
        lost = rates["shed_segments"] + rates["dead_lettered_segments"] + rates["dropped_packets"]
        used = 1 - arena["free_slots"] / arena["slots"]
        facts = (
            f"{rates['received_segments']:,.0f} segments/s, {rates['received_packets']:,.0f} packets/s, "
            f"{totals['unfinished_segments']:,} under way, arena {used:.0%}, loop "
            f"{format_seconds(state['loop_lag_seconds'])} late"
        )
        table.add_row("now", facts, Text(f"lost {lost:,.1f}/s", "bold red" if lost else "dim"))
        return table


def _lanes(state: State) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    percentile = f"p{state['objective']['percentile']:g}"
    table = Table(box=box.SIMPLE_HEAD)
    for heading in (
        "lane",
        "workers",
        "nice",
        "cores",
        "batch",
        "queued",
        "busy",
        "segments/s",
        "bytes/s",
        "p50",
        percentile,
    ):
        table.add_column(heading, justify="left" if heading == "lane" else "right")
    for lane in state["lanes"]:
        late = (lane["latency_high_seconds"] or 0.0) > lane["objective_seconds"]
        settings = {knob["knob"]: _setting(knob) for knob in lane["knobs"]}
        table.add_row(
            Text(lane["name"]),
            *(settings.get(knob, Text("-")) for knob in SETTINGS),
            f"{lane['queued_segments']:,}",
            f"{lane['busy_ratio']:.0%}",
            f"{lane['segments_per_second']:,.0f}",
            format_bytes(lane["bytes_per_second"]),
            _duration(lane["latency_p50_seconds"]),
            Text(_duration(lane["latency_high_seconds"]), "bold red" if late else ""),
        )
    return table


def _setting(knob: Mapping[str, Any]) -> RenderableType:
    """The value in force; with what was wanted where that differs."""
    from rich.text import Text

    present = next((knob[amount] for amount in ("observed", "granted", "desired") if knob[amount] is not None), None)
    if present is None or present == knob["desired"]:
        return Text("-" if present is None else f"{present:g}")
    return Text(f"{present:g} of {knob['desired']:g}", "yellow")


def _content(state: State) -> RenderableType:
    from rich.text import Text

    shares = sorted(state["content"], key=lambda share: -share["bytes_per_second"])
    total = sum(share["bytes_per_second"] for share in shares)
    mix = [f"{share['type']} {share['bytes_per_second'] / total:.0%}" for share in shares[:8] if total]
    text = Text("content  " + (", ".join(mix) or "-"))
    rates = state["rates"]
    text.append(f"\nwork     {rates['measured_seconds']:.3g} s/s measured")
    if rates["predicted_seconds"] is not None:
        text.append(f", {rates['predicted_seconds']:.3g} s/s predicted")
    if state["work_error_ratio"] is not None:
        text.append(f", error {state['work_error_ratio']:.0%}")
    learning = state["learning"]
    if learning is not None:
        text.append(f"\nlearning {learning['learned']:,} outcomes, {learning['waiting']:,} waiting")
        text.append(f", {sum(learning['skipped'].values()):,} skipped, model {learning['model_version']}")
        text.append(", paused" if learning["paused"] else "")
    return text


def _health(state: State) -> RenderableType:
    from rich.text import Text

    wrong = [part for part in state["health"] if part["condition"] != "ok"]
    text = Text("health   ")
    if not wrong:
        return text.append("all is well", "green")
    lines = Text("\n         ").join(
        Text(f"{part['component']}: {part['reason']}", "bold red" if part["condition"] == "failed" else "yellow")
        for part in wrong
    )
    return text.append_text(lines)


def _decisions(decisions: list[Mapping[str, Any]]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title="decisions", title_justify="left")
    for heading in ("time", "outcome", "what and why"):
        table.add_column(heading)
    colours = {"applied": "green", "kept": "green", "undone": "red", "refused": "yellow"}
    for decision in decisions:
        moment = time.strftime("%H:%M:%S", time.localtime(decision["time_seconds"]))
        outcome = decision["outcome"]
        table.add_row(moment, Text(outcome, colours.get(outcome, "dim")), Text(decision["sentence"]))
    return table


def sparkline(values: deque[float]) -> str:
    """One block character per value, scaled to the largest."""
    top = max(values, default=0.0)
    if top <= 0:
        return ""
    return "".join(_BARS[min(int(value / top * len(_BARS)), len(_BARS) - 1)] for value in values)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
