"""`streamspec replay` on a trace as the service records it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from streamspec.cli import main
from streamspec.core.outcome import OUTCOME, SHED
from streamspec.simulation.traced import replayable
from streamspec.simulation.workload import load_shape
from streamspec.telemetry.trace import TraceHeader, TraceWriter, read_trace


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Forty seconds whose load goes from a tenth of the machine to most of it, with two variants."""
    rng = np.random.default_rng(3)
    arrival, work, _ = load_shape("diurnal", rng, seconds=40.0, level=0.5)
    rows = np.zeros(len(arrival), dtype=OUTCOME)
    rows["arrival_ns"] = arrival + 7e12
    rows["key_hash"] = np.arange(len(arrival))
    rows["length"] = 16_384
    slow = rng.random(len(arrival)) < 0.5
    rows["useful_ns"][:, 0] = work * 0.5
    rows["useful_ns"][:, 1] = work * np.where(slow, 1.0, 0.5)
    rows["variant"][:, 1] = slow
    rows["payload_bytes_out"] = np.where(slow, 6_000, 8_000)
    rows["predicted_ns"] = work * np.exp(rng.normal(0, 0.2, len(arrival)))
    rows["predicted_upper_ns"] = rows["predicted_ns"] * 1.4
    rows["ending"][::500] = SHED
    rows["useful_ns"][::500] = 0
    header = TraceHeader(("inspect", "compress"), ("zstd:1", "zstd:9"), 1, 0, 0.05, 99.0, 2, 2, ("s",))
    path = tmp_path / "day.trace"
    writer = TraceWriter(path, header)
    writer.append(rows)
    writer.close()
    return path


def test_work_with_variants_that_were_not_taken_comes_from_the_mean_ratio(trace: Path) -> None:
    ready = replayable(read_trace(trace))
    fast, slow = ready.workload.work_ns.mean(axis=0)
    assert 1.4 < slow / fast < 1.6
    small = ready.workload.ratio.mean(axis=0)
    assert 0.70 < small[1] / small[0] < 0.80
    assert any("no measured work" in note for note in ready.notes)


@pytest.mark.slow
def test_policies_are_compared_and_drawn(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chart = tmp_path / "chart.html"
    assert (
        main(["replay", str(trace), "--policy", "static", "--policy", "planner", "--json", "--plot", str(chart)]) == 0
    )
    document = json.loads(capsys.readouterr().out)
    static, planner = document["policies"]
    assert static["policy"] == "static"
    assert static["switches"] == 0
    assert static["miss_ratio"] < 0.01
    assert planner["miss_ratio"] < 0.01
    assert planner["worker_seconds"] < static["worker_seconds"]
    assert planner["bytes_out"] < static["bytes_out"]
    page = chart.read_text()
    assert "planner" in page
    assert "<script src" not in page


@pytest.mark.slow
def test_as_text_each_policy_has_a_line(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(trace), "--policy", "aimd", "--policy", "gradient", "--policy", "ds2"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("aimd", "gradient", "ds2", "worker-seconds"))


def test_unknown_policies_and_other_files_are_refused(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(trace), "--policy", "magic"]) == 2
    assert "allowed: aimd" in capsys.readouterr().err
    assert main(["replay", str(Path(__file__))]) == 2
    assert "not a trace" in capsys.readouterr().err
