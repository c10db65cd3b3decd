"""Log lines: their two forms, their time, and that repetition is counted."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from streamspec.telemetry.logging import MAX_REMEMBERED, RepeatLimit, configure_logging, tell_held_back
from streamspec.testing.clock import ManualClock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_have_time_level_component_and_event_first() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, clock=ManualClock(1_700_000_000_123_456_789))
    structlog.get_logger("streamspec.fleet").warning("worker died", worker=3)
    assert list(lines(stream)[0].items()) == [
        ("timestamp", "2023-11-14T22:13:20.123Z"),
        ("level", "warning"),
        ("component", "streamspec.fleet"),
        ("event", "worker died"),
        ("worker", 3),
    ]


def test_a_terminal_gets_coloured_text_and_text_can_be_asked_for() -> None:
    terminal, plain = Terminal(), io.StringIO()
    configure_logging(stream=terminal, clock=ManualClock())
    structlog.get_logger("a").info("started", workers=2)
    assert "started" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    configure_logging(format="text", stream=plain, clock=ManualClock())
    structlog.get_logger("a").info("started", workers=2)
    assert plain.getvalue() == "1970-01-01T00:00:01.000Z [info     ] started component=a workers=2\n"


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging("warning", stream=stream)
    log = structlog.get_logger("a")
    log.info("quiet")
    log.error("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_repeated_lines_are_held_back_and_counted() -> None:
    stream, clock = io.StringIO(), ManualClock()
    configure_logging(stream=stream, clock=clock)
    log, other = structlog.get_logger("a"), structlog.get_logger("b")
    for number in range(5):
        log.info("refused", number=number)
        clock.advance(1)
    other.info("refused")
    log.info("accepted")
    clock.advance(5)
    log.info("refused", number=9)
    clock.advance(10)
    log.info("refused", number=10)
    assert [(line["component"], line["event"], line.get("repeated")) for line in lines(stream)] == [
        ("a", "refused", None),
        ("b", "refused", None),
        ("a", "accepted", None),
        ("a", "refused", 4),
        ("a", "refused", None),
    ]


def test_a_line_that_matters_is_always_written() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, clock=ManualClock())
    for worker in range(3):
        structlog.get_logger("a").info("worker started", worker=worker, always=True)
    assert [line["worker"] for line in lines(stream)] == [0, 1, 2]
    assert "always" not in lines(stream)[0]


def test_what_was_held_back_is_told_at_the_end() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, clock=ManualClock())
    for _ in range(3):
        structlog.get_logger("a").info("refused")
    tell_held_back()
    tell_held_back()
    assert [line.get("repeated") for line in lines(stream)] == [None, 2]


def test_the_memory_of_repetition_is_bounded() -> None:
    limit = RepeatLimit(ManualClock())
    for number in range(MAX_REMEMBERED + 10):
        limit(None, "info", {"event": str(number)})
    assert len(limit._seen) == MAX_REMEMBERED
    assert limit(None, "info", {"event": "0"})


def test_libraries_log_the_same_way() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("a.library").exception("broker %s", "gone")
    (line,) = lines(stream)
    assert (line["component"], line["event"], line["level"]) == ("a.library", "broker gone", "error")
    assert "ValueError: odd" in line["exception"]


@pytest.mark.parametrize("value", ["\ud800", b"\xff", 1 << 70, {1: 2}, object(), float("nan")])
@pytest.mark.parametrize("form", ["json", "text"])
def test_any_value_can_be_logged(value: object, form: Any) -> None:
    stream = io.StringIO()
    configure_logging(format=form, stream=stream)
    structlog.get_logger("a").info("odd", value=value)
    assert "odd" in stream.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    stream.close()
    structlog.get_logger("a").info("unheard")
