"""Whole services on simulated devices: real processes, arena, grants and sinks; kernels in numba's simulator."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamspec.testing.captures import Packet, classic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

WORDS = [b"union select ", b"/etc/passwd", b"plain text ", b"\x00\x01\x02", b"USER me\r\n", b"0123456789", b"<script>"]
RULES = Path(__file__).parents[2] / "configs" / "rules" / "basic.yaml"


def _frame(payload: bytes) -> bytes:
    udp = struct.pack(">HHHH", 1000, 53, 8 + len(payload), 0) + payload
    addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    return bytes(12) + b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = random.Random(8)
    packets = [
        Packet(10**18 + 10**7 * i, _frame(b"".join(noise.choices(WORDS, k=noise.randrange(0, 30))))) for i in range(120)
    ]
    path = tmp_path_factory.mktemp("capture") / "trace.pcap"
    path.write_bytes(classic(packets))
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, capture: Path) -> list[str]:
    """What the CPU finds."""
    return _run(tmp_path_factory.mktemp("cpu"), capture, "--devices", "0")[0]


def _run(tmp_path: Path, capture: Path, *options: str, **inspect: Any) -> tuple[list[str], dict[str, Any], str]:
    """Lines of the sink in order of segment and packet, summary, and what was logged."""
    out = tmp_path / f"alerts-{inspect.get('device', 'cpu')}.jsonl"
    profiler = {"device": inspect.pop("profiler", "cpu"), "sample_bytes": 0}
    source = {"type": "pcap", "path": str(capture), "segment_bytes": "4 KiB", **inspect.pop("source", {})}
    content = {
        "sources": {"in": source},
        "stages": [{"type": "decode"}, {"type": "inspect", "rules": str(RULES), "gpu_memory": "1 MiB", **inspect}],
        "sinks": {"out": {"type": "jsonl", "path": str(out), "write": "records"}},
        "profiler": profiler,
        "engine": {"workers": 1, "arena_bytes": "4 MiB", "segment_bytes": "8 KiB"},
    }
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(content))
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "streamspec.testing.gpu_service", str(path), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=160)
    assert done.returncode == 0, done.stderr[-4000:]
    alerts = [line for line in out.read_text().splitlines() if json.loads(line)["record"] == "alert"]
    return alerts, json.loads(done.stdout.splitlines()[-1]), done.stderr


def _nothing_lost(summary: dict[str, Any]) -> None:
    assert summary["segments_lost"] == summary["segments_shed"] == summary["segments_dead_lettered"] == 0
    assert summary["segments_delivered"] == summary["segments_received"] > 5


def test_a_service_on_a_device_delivers_what_one_on_the_cpu_does(
    tmp_path: Path, capture: Path, expected: list[str]
) -> None:
    alerts, summary, _ = _run(tmp_path, capture, device="gpu", profiler="gpu")
    assert len(expected) > 50
    assert alerts == expected
    assert summary["stages"]["inspect"]["on_gpu"] == summary["segments_received"]
    assert not [name for name in summary["stages"]["inspect"] if name.startswith("gpu_")]
    assert summary["profiler"] == {"on_gpu": summary["segments_received"]}
    _nothing_lost(summary)


def test_auto_finds_out_that_a_simulator_does_not_pay(tmp_path: Path, capture: Path, expected: list[str]) -> None:
    alerts, summary, _ = _run(tmp_path, capture, device="auto", source={"repeat": 15})
    assert len(alerts) == 15 * len(expected)
    assert 0 < summary["stages"]["inspect"]["on_gpu"] < summary["segments_received"] / 2
    _nothing_lost(summary)


def test_a_device_that_is_lost_while_the_stream_runs_loses_no_segment(
    tmp_path: Path, capture: Path, expected: list[str]
) -> None:
    alerts, summary, log = _run(tmp_path, capture, "--fault", "wait:device_lost:2", device="gpu")
    assert alerts == expected
    counts = summary["stages"]["inspect"]
    assert counts["on_gpu"] > 0
    assert counts["gpu_device_lost"] == summary["segments_received"] - counts["on_gpu"] > 0
    assert log.count("inspect goes on without a GPU") == 1
    _nothing_lost(summary)


def test_a_grant_that_is_taken_back_under_load_is_free_within_its_second(tmp_path: Path, capture: Path) -> None:
    paced = {"speed": "recorded", "linger": "20 ms", "repeat": 4}
    _, summary, log = _run(tmp_path, capture, "--crowd", "5", device="gpu", source=paced)
    gpu, counts = summary["gpu"], summary["stages"]["inspect"]
    assert gpu["granted_before"] == 1 << 20
    assert gpu["given_back_seconds"] < 2.0
    assert gpu["delivered_then"] < summary["segments_delivered"], "the stream went on"
    assert counts["on_gpu"] > 0
    assert counts["gpu_granted_too_little"] > 0
    assert "taken back: more is in use than there is" in log
    _nothing_lost(summary)


def test_without_a_device_it_is_said_once_and_the_cpu_does_the_work(tmp_path: Path, capture: Path) -> None:
    alerts, summary, log = _run(tmp_path, capture, "--devices", "0", device="auto")
    assert len(alerts) > 50
    assert summary["stages"]["inspect"]["gpu_refused"] == summary["segments_received"]
    assert log.count("no GPU, the CPU does the work") == 1, log
    assert "Driver Not Loaded" in log
    _nothing_lost(summary)
