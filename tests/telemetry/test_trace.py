"""Traces: what is written is read, torn ends are dropped, anything else is refused by name."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamspec.core.errors import DependencyUnavailable, UsageError
from streamspec.core.outcome import OUTCOME
from streamspec.telemetry.trace import TraceHeader, TraceWriter, read_trace

HEADER = TraceHeader(
    stages=("inspect", "compress"),
    variants=("compress:zstd:1", "compress:zstd:9"),
    variable_stage=1,
    cores=2,
    workers=2,
    sources=("packets",),
    speed_up=(0.0, 1.0, 1.8),
)


def outcomes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, dtype=OUTCOME)
    rows["arrival_ns"] = np.arange(count) * 1_000_000 + 5
    rows["key_hash"] = rng.integers(0, 2**63, count).astype(np.uint64) * 2
    rows["length"] = rng.integers(1, 65_536, count)
    rows["payload_bytes_out"] = rows["length"] // 2
    rows["useful_ns"][:, 0] = rng.integers(1_000, 5_000_000, count)
    rows["useful_ns"][:, 1] = 9_000_000_000
    rows["variant"][:, 1] = rng.integers(-1, 2, count)
    rows["predicted_ns"] = 1e6
    return rows


def test_what_is_appended_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    rows = outcomes(10_000)
    writer = TraceWriter(path, HEADER)
    for part in (rows[5_000:], rows[:10], rows[10:5_000]):
        writer.append(part)
    writer.close()
    writer.close()
    trace = read_trace(path)
    assert trace.header == HEADER
    assert writer.rows == len(trace.rows) == 10_000
    for name in ("arrival_ns", "key_hash", "length", "payload_bytes_out", "predicted_ns"):
        np.testing.assert_array_equal(trace.rows[name], rows[name])
    np.testing.assert_array_equal(trace.rows["useful_ns"][:, 0], rows["useful_ns"][:, 0])
    assert (trace.rows["useful_ns"][:, 1] == 2**32 - 1).all()
    assert path.stat().st_size < 70 * 10_000


def test_a_torn_last_row_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    writer = TraceWriter(path, HEADER)
    writer.append(outcomes(100))
    writer.close()
    path.write_bytes(path.read_bytes()[:-7])
    assert len(read_trace(path).rows) == 99


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 700), content=st.binary(min_size=1, max_size=40))
def test_damage_is_refused_or_read_but_never_crashes(tmp_path: Path, place: int, content: bytes) -> None:
    path = tmp_path / "a.trace"
    writer = TraceWriter(path, HEADER)
    writer.append(outcomes(5))
    writer.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + content + whole[place + len(content) :])
    with suppress(UsageError):
        assert len(read_trace(path).rows)


def test_a_file_that_is_missing_or_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(DependencyUnavailable):
        read_trace(tmp_path / "absent")
    with pytest.raises(DependencyUnavailable):
        TraceWriter(tmp_path / "absent" / "a.trace", HEADER)
