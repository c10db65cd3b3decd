"""Through the real service and back: every marked message is found in its sink, whichever way it went."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.audit import read_audit
from loadgen.load import run_load
from loadgen.scenario import Rate
from loadgen.verify import verify

CONFIG = """
sources:
  datagrams: {{type: udp, bind: 127.0.0.1:{udp}}}
  frames: {{type: tcp, bind: 127.0.0.1:{length}, framing: length}}
  lines: {{type: tcp, bind: 127.0.0.1:{newline}, framing: newline}}
  pieces: {{type: tcp, bind: 127.0.0.1:{chunks}, framing: chunks}}
stages:
  - {{type: compress, codec: zstd, levels: [1]}}
sinks:
  out: {{type: jsonl, path: "{out}", payload: base64, compression: zstd}}
"""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.slow
def test_what_the_service_delivers_is_what_was_sent(tmp_path: Path) -> None:
    udp, length, newline, chunks = _free_ports(4)
    out = tmp_path / "out.jsonl.zst"
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(udp=udp, length=length, newline=newline, chunks=chunks, out=out))
    command = [sys.executable, "-m", "streamspec", "run", str(config), "--json"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert service.stderr is not None
    try:
        for line in service.stderr:
            if json.loads(line)["event"] == "started":
                break
        reports = {}
        for name, to in {
            "udp": f"udp://127.0.0.1:{udp}",
            "length": f"tcp://127.0.0.1:{length}",
            "newline": f"tcp://127.0.0.1:{newline}?framing=newline",
            "chunks": f"tcp://127.0.0.1:{chunks}",  # frames that the service does not look for, and cuts
        }.items():
            rate = Rate(messages_per_second=4000)
            reports[name] = run_load("mixed", to, seconds=0.3, rate=rate, keys=3, audit=tmp_path / name)
    finally:
        service.send_signal(signal.SIGTERM)
        _, errors = service.communicate(timeout=30)
    assert service.returncode == 0, errors
    for name, report in reports.items():
        verdict = verify(read_audit(tmp_path / name), [out])
        assert verdict.passes(), f"{name}: {verdict.text()}"
        assert verdict.found == report.messages > 500
