"""The demo: the whole service with the real generator, told to people and to machines."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamspec.config import ServiceConfig, load_config, parse_config
from streamspec.core.errors import ConfigError
from streamspec.core.outcome import DELIVERED, OUTCOME, SHED
from streamspec.demo import EMBEDDED, target_source
from streamspec.demo.measured import Measured, costs_of, halves
from streamspec.demo.starting import StartWatch

pytestmark = pytest.mark.timeout(180)
"""Whole services are started here, and where no kernel is in the cache yet they compile them first."""

ROOT = Path(__file__).parents[1]
REQUIRED = {f"segments_{end}" for end in ("received", "delivered", "shed", "dead_lettered", "lost")}
REQUIRED |= {"bytes_received", "latency_seconds"}
TCP = """\
sources:
  idle: {type: udp, bind: "127.0.0.1:0"}
  lines: {type: tcp, bind: "127.0.0.1:0", framing: newline}
sinks: {out: {type: null}}
engine: {workers: 1, arena_bytes: 32 MiB}
logging: {level: warning}
"""


def demo(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamspec", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=170, cwd=cwd)


def test_the_file_in_configs_is_the_embedded_one() -> None:
    def comparable(path: Path) -> dict[str, Any]:
        content = load_config(path).model_dump()
        content["sources"]["packets"].pop("bind")
        content["stages"][0].pop("rules")
        return content

    assert comparable(ROOT / "configs" / "demo.yaml") == comparable(EMBEDDED)


def config_of(sources: str) -> ServiceConfig:
    return parse_config(f"sources: {{{sources}}}\nsinks: {{out: {{type: null}}}}\n", origin="c.yaml")


def test_the_first_source_that_can_be_sent_to_is_the_target() -> None:
    capture = "c: {type: pcap, path: x.pcap}"
    chunks = "d: {type: tcp, bind: '127.0.0.1:0', framing: chunks}"
    assert target_source(config_of(f"{capture}, {chunks}, e: {{type: udp, bind: '127.0.0.1:0'}}")) == "e"
    with pytest.raises(ConfigError, match="the demo needs a source that it can send to"):
        target_source(config_of(f"{capture}, {chunks}"))


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a short demo says to machines."""
    done = demo("--seconds", "1", "--json")
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


@pytest.mark.slow
def test_for_machines_there_is_one_json_object(told: dict[str, Any]) -> None:
    for summary in (told, told["off"]):
        assert set(summary) >= REQUIRED
        assert summary["segments_received"] > 0
        assert summary["segments_lost"] == 0
        ended = summary["segments_delivered"] + summary["segments_shed"] + summary["segments_dead_lettered"]
        assert summary["segments_received"] == ended
        drops = summary["sources"]["packets"].get("socket_drops", 0)
        assert summary["packets_received"] + drops == summary["generator"]["messages"]
        assert summary["packets_dropped"] == drops
        assert 0 < summary["latency_seconds"]["p50"] <= summary["latency_seconds"]["p99"]


@pytest.mark.slow
def test_both_runs_get_the_same_load_and_are_set_side_by_side(told: dict[str, Any]) -> None:
    off, comparison = told["off"], told["comparison"]
    assert told["control"]["mode"] == "auto"
    assert off["control"]["mode"] == "off"
    assert list(off["lanes"]) == ["default"]
    assert told["generator"]["kinds"] == off["generator"]["kinds"]
    assert comparison["missed_ratio"]["off"] == off["misses"]["ratio"]
    assert comparison["light_half_seconds"]["controlled"] == told["halves"]["light"]
    for name in ("latency_seconds", "worker_seconds", "payload_bytes_out", "packets_dropped"):
        assert comparison[name] == {"controlled": told[name], "off": off[name]}
    for summary in (told, off):
        assert summary["worker_seconds"] > summary["useful_seconds"] > 0
        assert 0 < summary["payload_bytes_out"] < summary["bytes_received"]
        assert 0 <= summary["misses"]["ratio"] <= 1


def outcomes_of(lengths: list[int], latencies_ms: list[float], ending: int = DELIVERED) -> Any:
    rows = np.zeros(len(lengths), dtype=OUTCOME)
    rows["ending"], rows["length"] = ending, lengths
    rows["latency_ns"] = [round(latency * 1e6) for latency in latencies_ms]
    rows["payload_bytes_out"] = 10
    return rows


def test_what_is_late_shed_or_dead_lettered_has_missed_the_objective() -> None:
    measured = Measured(objective_seconds=0.05)
    measured.take(outcomes_of([1, 2, 3], [50, 50.1, 1]))
    measured.take(outcomes_of([1], [1], SHED))
    assert measured.told()["misses"] == {"segments": 2, "ratio": 0.5}
    assert measured.bytes_out == 30


def test_a_long_demo_keeps_an_even_part_of_its_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamspec.demo.measured.KEPT_SEGMENTS", 1000)
    measured = Measured(objective_seconds=0.05)
    for begin in range(0, 10_000, 50):
        measured.take(outcomes_of(list(range(begin, begin + 50)), [1.0] * 50))
    kept = measured.kept["length"]
    assert 500 <= len(kept) <= 1050
    assert kept.mean() == pytest.approx(5000, rel=0.1)
    assert measured.segments == 10_000


def test_without_a_model_the_heavy_half_are_the_large_ones() -> None:
    measured = Measured(objective_seconds=0.05)
    measured.take(outcomes_of([1, 2, 300, 400], [1, 1, 9, 9]))
    costs = costs_of(measured.kept, None)
    found = halves(measured.kept, costs, float(np.median(costs)))
    assert found == {"light": {"p50": 0.001, "p99": 0.001}, "heavy": {"p50": 0.009, "p99": 0.009}}


def test_a_start_says_how_many_kernels_it_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    (tmp_path / "before.nbc").touch()
    told: list[int] = []
    seen = threading.Event()

    def tell(seconds: float, kernels: int) -> None:
        told.append(kernels)
        if kernels:
            seen.set()
        else:
            (tmp_path / "compiled.nbc").touch()

    watch = StartWatch(tell)
    watch.start()
    assert seen.wait(10)
    watch.stop()
    assert told[:2] == [0, 1]


@pytest.mark.slow
def test_a_configuration_of_ones_own_may_listen_on_tcp(tmp_path: Path) -> None:
    config = tmp_path / "tcp.yaml"
    config.write_text(TCP.replace("idle: {type: udp", "idle: {type: tcp, framing: chunks"))
    done = demo("--seconds", "1", "--json", "--config", str(config), "--set", "sources.lines.linger=2 ms")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["packets_received"] == summary["generator"]["messages"] > 0
    assert summary["generator"]["target"].endswith("?framing=newline")


@pytest.mark.slow
def test_without_a_terminal_people_get_lines_and_a_table() -> None:
    done = demo("--seconds", "2.2", "--no-compare")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "dashboard http://127.0.0.1:" in done.stderr
    assert "packets/s" in done.stderr
    assert "segments lost" in done.stderr
    assert "\x1b[" not in done.stderr


@pytest.mark.slow
def test_on_a_terminal_the_view_is_drawn_in_place() -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "streamspec", "demo", "--seconds", "1"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "130", "LINES": "50"}
    drawn = b""
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=environment) as process:
        os.close(slave)
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            drawn += part
    os.close(master)
    text = drawn.decode()
    assert process.returncode == 0, text
    for phrase in ("streamspec demo", "http://127.0.0.1:", "control auto", "throughput", "default", "learning"):
        assert phrase in text
    assert "once more without control" in text
    assert "control off" in text
    assert "segments lost" in text
    assert "objective missed" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1  # the cursor is back


@pytest.mark.slow
def test_an_interrupt_ends_it_in_order() -> None:
    command = [sys.executable, "-m", "streamspec", "demo", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("packets/s" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130, told
    assert "segments lost" in told
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_generator_that_cannot_send_is_told(tmp_path: Path) -> None:
    (tmp_path / "loadgen").mkdir()
    (tmp_path / "loadgen" / "__main__.py").write_text("raise SystemExit('no traffic today')\n")
    done = demo("--seconds", "1", "--json", cwd=tmp_path)  # where `-m` finds this one first
    assert done.returncode == 69
    assert "the traffic generator ended with 1: no traffic today" in done.stderr
    assert done.stdout == ""
