"""The demo: the whole service with the real generator, told to people and to machines."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamspec.config import ServiceConfig, load_config, parse_config
from streamspec.core.errors import ConfigError
from streamspec.demo import EMBEDDED, target_source

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


@pytest.mark.slow
def test_for_machines_there_is_one_json_object() -> None:
    done = demo("--seconds", "1", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(summary) >= REQUIRED
    assert summary["segments_received"] > 0
    assert summary["segments_lost"] == 0
    ended = summary["segments_delivered"] + summary["segments_shed"] + summary["segments_dead_lettered"]
    assert summary["segments_received"] == ended
    drops = summary["sources"]["packets"].get("socket_drops", 0)
    assert summary["packets_received"] + drops == summary["generator"]["messages"]
    assert 0 < summary["latency_seconds"]["p50"] <= summary["latency_seconds"]["p99"]


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
    done = demo("--seconds", "2.2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "packets/s" in done.stderr
    assert "segments lost" in done.stderr
    assert "\x1b[" not in done.stderr


@pytest.mark.slow
def test_on_a_terminal_the_view_is_drawn_in_place() -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "streamspec", "demo", "--seconds", "1"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "110"}
    shown = b""
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=environment) as process:
        os.close(slave)
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(master)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "streamspec demo" in text
    assert "bulk" in text
    assert "segments lost" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") >= 1  # the cursor is back


@pytest.mark.slow
def test_an_interrupt_ends_it_in_order() -> None:
    command = [sys.executable, "-m", "streamspec", "demo", "--seconds", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "packets/s" in process.stderr.readline()
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
