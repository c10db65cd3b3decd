"""Log lines: one event each, text on a terminal and JSON otherwise, on standard error.

A component asks once for its logger, ``_log = structlog.get_logger("streamspec.sources.tcp")``, and names
events with their facts as fields: ``_log.warning("connection closed", reason="idle", peer=peer)``.
A line that repeats (same component and event) within ten seconds is held back and counted; the next one
that is written says ``repeated=n``. Pass ``always=True`` where each line matters.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import OrderedDict
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Clock

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "text", "json"]

REPEAT_WINDOW_SECONDS = 10.0
MAX_REMEMBERED = 1024
"""Distinct lines of which repetition is known; the one seen longest ago is forgotten first."""


class RepeatLimit:
    """A structlog processor that writes a repeated line once per window and counts the rest.

    Args:
        clock: whose monotonic time is used.
        window_seconds: how long after a line its repetitions are held back.
    """

    def __init__(self, clock: Clock, window_seconds: float = REPEAT_WINDOW_SECONDS) -> None:
        self._clock = clock
        self._window_ns = round(window_seconds * 1e9)
        self._seen: OrderedDict[tuple[str, str], list[int]] = OrderedDict()

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if event.pop("always", False):
            return event
        key = (str(event.get("component", "")), str(event.get("event", "")))
        now_ns = self._clock.monotonic_ns()
        entry = self._seen.get(key)
        if entry is None:
            self._seen[key] = [now_ns, 0]
            if len(self._seen) > MAX_REMEMBERED:
                self._seen.popitem(last=False)
            return event
        if now_ns - entry[0] < self._window_ns:
            entry[1] += 1
            raise structlog.DropEvent
        if entry[1]:
            event["repeated"] = entry[1]
        entry[:] = [now_ns, 0]
        self._seen.move_to_end(key)
        return event

    def held_back(self) -> list[tuple[str, str, int]]:
        """``(component, event, count)`` of lines held back and not yet told; forgets them."""
        told = [(*key, entry[1]) for key, entry in self._seen.items() if entry[1]]
        for entry in self._seen.values():
            entry[1] = 0
        return told


class _Output:
    """The end of the chain. A log that cannot be written (its reader is gone) never stops the service."""

    def __init__(self, stream: TextIO, component: str) -> None:
        self._stream = stream
        self.component = component

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # closed pipe, closed file
            pass

    debug = info = warning = warn = error = critical = exception = fatal = log = msg


def _add_component(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if logger.component:
        event.setdefault("component", logger.component)
    return event


class _Timestamp:
    """Adds the wall clock as RFC 3339 in UTC with milliseconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        moment = datetime.fromtimestamp(self._clock.time_ns() / 1e9, tz=UTC)
        event["timestamp"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return event


class _StandardLibrary(logging.Handler):
    """Sends what libraries log (asyncio, aiokafka) the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        log: FilteringBoundLogger = structlog.get_logger(record.name)
        exception = {"exc_info": record.exc_info} if record.exc_info else {}
        log.log(min(record.levelno, logging.CRITICAL), record.getMessage(), **exception)


_limit: RepeatLimit | None = None


def configure_logging(
    level: Level = "info",
    format: Format = "auto",
    *,
    stream: TextIO | None = None,
    clock: Clock | None = None,
) -> None:
    """Set up logging of the whole process; call it again to change it (as a reload does).

    Args:
        level: least severity written.
        format: ``auto`` is text when ``stream`` is a terminal and JSON otherwise.
        stream: standard error by default.
        clock: time of the lines and of their repetition.
    """
    global _limit
    stream = stream or sys.stderr
    clock = clock or SystemClock()
    terminal = stream.isatty()
    number = logging.getLevelNamesMapping()[level.upper()]
    _limit = RepeatLimit(clock)
    processors: list[Processor] = [
        _add_component,
        _limit,
        structlog.processors.add_log_level,
        _Timestamp(clock),
        *_renderers(terminal if format == "auto" else format == "text", colors=terminal),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda component="": _Output(stream, component),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_StandardLibrary()]
    root.setLevel(max(number, logging.INFO))


def _renderers(text: bool, *, colors: bool) -> list[Processor]:
    if text:
        return [
            structlog.dev.ConsoleRenderer(
                colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]


def _to_json(event: MutableMapping[str, Any], **_: object) -> str:
    ordered = {name: event[name] for name in ("timestamp", "level", "component", "event") if name in event} | dict(
        event
    )
    try:
        return orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()
    except TypeError:  # half a surrogate pair, an integer beyond 64 bits
        return json.dumps({str(name): value for name, value in ordered.items()}, default=repr)


def tell_held_back() -> None:
    """Write one line per event whose repetitions were held back; call it before the process ends."""
    for component, event, count in _limit.held_back() if _limit else ():
        structlog.get_logger(component).info(event, repeated=count, always=True)
