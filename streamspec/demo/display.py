"""What the demo shows while it runs: the view of ``streamspec top`` on a terminal, a line at times otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from streamspec.core.units import format_bytes, format_seconds
from streamspec.demo.starting import StartWatch

if TYPE_CHECKING:
    from rich.console import RenderableType

    from streamspec.app import Service
    from streamspec.top import View

LINE_SECONDS = 2.0


class Display(Protocol):
    """Shows runs, one after the other."""

    def begin(self, title: str) -> None:
        """A run is started."""

    def show(self, service: Service, sent: Mapping[str, Any]) -> None:
        """Called a few times per second; ``sent`` is what the generator told last, empty before its first word."""

    def close(self) -> None:
        """Leave the terminal as it was. Safe to call twice."""


class NoDisplay:
    """Shows nothing."""

    def begin(self, title: str) -> None:
        pass

    def show(self, service: Service, sent: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class LineDisplay:
    """A line on standard error every two seconds."""

    def __init__(self) -> None:
        self._watch = StartWatch(self._starting)
        self._told_compiling = False
        self._running = False
        self._next_seconds = LINE_SECONDS
        self._last: Mapping[str, Any] = {}

    def begin(self, title: str) -> None:
        self._running, self._next_seconds, self._last = False, LINE_SECONDS, {}
        _print(title)
        self._watch.start()

    def show(self, service: Service, sent: Mapping[str, Any]) -> None:
        if not self._running:
            self._watch.stop()
            self._running = True
            if service.admin is not None:
                _print(f"dashboard {service.admin.url}")
        if not sent or sent["seconds"] < self._next_seconds:
            return
        self._next_seconds = sent["seconds"] + LINE_SECONDS
        summary = service.summary()
        last, self._last = self._last or dict.fromkeys(summary, 0), summary
        passed = max(summary["elapsed_seconds"] - last["elapsed_seconds"], 1e-3)
        packets = (summary["packets_received"] - last["packets_received"]) / passed
        received = (summary["bytes_received"] - last["bytes_received"]) / passed
        lanes = " ".join(f"{name}:{lane['workers']}" for name, lane in summary["lanes"].items())
        _print(
            f"{sent['seconds']:6.1f} s  {sent['phase']:<17} {packets:>8,.0f} packets/s  "
            f"{format_bytes(received):>9}/s  p99 {_duration(summary['latency_seconds']['p99']):>8}  "
            f"delivered {summary['segments_delivered']:,}  shed {summary['segments_shed']:,}  workers {lanes}"
        )

    def close(self) -> None:
        self._watch.stop()

    def _starting(self, seconds: float, kernels: int) -> None:
        if kernels and not self._told_compiling:
            self._told_compiling = True
            _print("compiling kernels, once")


class LiveDisplay:
    """The terminal view, drawn anew in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        # No refresh thread: the demo's own loop says when.
        self._live = Live(console=Console(stderr=True, highlight=False), auto_refresh=False, transient=True)
        self._watch = StartWatch(self._starting)
        self._title = ""
        self._view: View | None = None
        self._noted_seconds = 0.0
        self._live.start()

    def begin(self, title: str) -> None:
        self._title, self._view = title, None
        self._watch.start()

    def show(self, service: Service, sent: Mapping[str, Any]) -> None:
        import orjson

        from streamspec.top import SHOWN_DECISIONS, View

        if service.status is None:
            return
        if self._view is None:
            self._watch.stop()
            self._view, self._noted_seconds = View(service.admin.url if service.admin else ""), 0.0
        state = orjson.loads(orjson.dumps(service.status.read(), option=orjson.OPT_SERIALIZE_NUMPY))
        if state["uptime_seconds"] - self._noted_seconds >= 1.0:
            self._noted_seconds = state["uptime_seconds"]
            self._view.note(state)
        views = service.decisions.last(SHOWN_DECISIONS)
        self._view.decisions = orjson.loads(orjson.dumps(views, option=orjson.OPT_SERIALIZE_NUMPY))
        self._live.update(self._picture(sent, self._view.render(state)), refresh=True)

    def close(self) -> None:
        self._watch.stop()
        self._live.stop()

    def _picture(self, sent: Mapping[str, Any], view: RenderableType) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        traffic = "the traffic generator starts ..."
        if sent:
            traffic = (
                f"traffic: {sent['phase']}, {sent['seconds']:.0f} s, {format_bytes(sent['bytes_per_second'])}/s sent"
            )
        return Group(Text.assemble((f"{self._title}  ", "bold"), (traffic, "cyan")), view)

    def _starting(self, seconds: float, kernels: int) -> None:
        from rich.text import Text

        doing = f"compiling kernels, once: {kernels} so far" if kernels else "starting"
        self._live.update(Text.assemble((f"{self._title}  ", "bold"), f"{doing} ... {seconds:.0f} s"), refresh=True)


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_seconds(seconds)
