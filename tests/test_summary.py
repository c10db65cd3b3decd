"""What people read while the service runs and at its end."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from rich.console import Console

from streamspec.summary import rows, summary_table, tell_summary
from streamspec.telemetry.logging import configure_logging


def summary(**changes: Any) -> dict[str, Any]:
    lanes = {
        "small": {"queued": 0, "workers": 1, "p50": 0.001, "p99": 0.004},
        "bulk": {"queued": 3, "workers": 1, "p50": None, "p99": None},
    }
    return {
        "elapsed_seconds": 2.0,
        "segments_received": 1000,
        "segments_delivered": 990,
        "segments_shed": 7,
        "segments_dead_lettered": 3,
        "segments_in_flight": 0,
        "segments_lost": 0,
        "packets_received": 40_000,
        "bytes_received": 4 << 20,
        "bytes_delivered": 1 << 20,
        "latency_seconds": {"p50": 0.0012, "p99": 0.034},
        "retries": 0,
        "worker_restarts": 0,
        "shed_reasons": {"arena_full": 7},
        "records": {"flow": 12},
        "sources": {"packets": {"socket_drops": 5}},
        "stages": {"inspect": {"alerts": 1234, "bytes_in": 2048}},
        "sinks": {"out": {}},
        "lanes": lanes,
    } | changes


def printed(renderable: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logging(stream=stream)
    yield stream
    structlog.reset_defaults()


def test_the_table_says_what_became_of_everything() -> None:
    found = {what: (amount, remark) for what, amount, remark in rows(summary())}
    assert found["packets received"] == ("40,000", "20,000/s")
    assert found["bytes received"] == ("4.0 MiB", "2.0 MiB/s")
    assert found["segments delivered"] == ("990", "1.0 MiB out (25%)")
    assert found["segments shed"] == ("7", "arena_full 7")
    assert found["segments lost"] == ("0", "")
    assert found["latency p50 / p99"] == ("1.2 ms / 34 ms", "to delivery")
    assert found["  lane small"] == ("1 ms / 4 ms", "")
    assert "  lane bulk" not in found
    assert found["sources.packets"] == ("", "socket_drops 5")
    assert found["records"] == ("", "flow 12")
    assert "segments dead-lettered" in printed(summary_table(summary()))


def test_a_run_without_traffic_has_a_table_as_well() -> None:
    nothing = {name: 0 for name in summary() if name.startswith(("segments_", "packets_", "bytes_"))}
    table = printed(summary_table(summary(**nothing, latency_seconds={"p50": None, "p99": None}, records={})))
    assert "latency" not in table


def test_the_demo_counts_its_rates_over_the_time_of_its_traffic() -> None:
    sent = {"seconds": 1.0, "messages": 41_000, "messages_per_second": 41_000.0}
    found = {what: (amount, remark) for what, amount, remark in rows(summary(generator=sent))}
    assert found["messages sent"] == ("41,000", "41,000/s")
    assert found["packets received"] == ("40,000", "40,000/s")


def test_loss_is_called_a_bug() -> None:
    assert "a bug: please report" in printed(summary_table(summary(segments_lost=1)))


def test_where_nobody_looks_the_summary_is_a_log_line(log: io.StringIO) -> None:
    tell_summary(summary())
    line = json.loads(log.getvalue())
    assert (line["event"], line["segments_received"], line["segments_lost"]) == ("finished", 1000, 0)
