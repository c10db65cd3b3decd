"""Every file in ``configs/`` is valid, explained, and does what its first lines say."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from streamspec.config import ServiceConfig, load_config
from streamspec.testing.captures import Packet, classic

pytestmark = pytest.mark.timeout(180)
"""Whole services are started here, and where no kernel is in the cache yet they compile them first."""

FOLDER = Path(__file__).parents[1] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_valid(path: Path) -> None:
    assert isinstance(load_config(path, environment={}), ServiceConfig)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_says_what_it_is_for_and_how_to_run_it(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(comments) >= 3
    assert any("streamspec run configs/" in line or "streamspec demo" in line for line in comments)


def test_they_are_all_there() -> None:
    assert {"demo.yaml", "udp.yaml", "tcp.yaml", "sensor.yaml", "flows.yaml"} <= {path.name for path in FILES}


def udp_frame(source_port: int, payload: bytes) -> bytes:
    udp = struct.pack(">HHHH", source_port, 53, 8 + len(payload), 0) + payload
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    )
    return bytes(12) + b"\x08\x00" + ip + udp


@pytest.mark.slow
def test_flows_writes_the_flow_table_of_a_capture(tmp_path: Path) -> None:
    packets = [Packet(10**18 + i * 10**6, udp_frame(1000 + i % 3, b"x" * 10)) for i in range(30)]
    capture, flows = tmp_path / "trace.pcap", tmp_path / "flows.jsonl"
    capture.write_bytes(classic(packets))
    command = [sys.executable, "-m", "streamspec", "run", str(FOLDER / "flows.yaml")]
    command += ["--set", f"sources.capture.path={capture}", "--set", f"sinks.out.path={flows}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in flows.read_text().splitlines()]
    assert {(r["sourceTransportPort"], r["packetDeltaCount"]) for r in records} == {(1000, 10), (1001, 10), (1002, 10)}
    assert all(r["octetDeltaCount"] == 10 * 38 for r in records)
