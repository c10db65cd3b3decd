"""Compiles the kernels, into ``NUMBA_CACHE_DIR``, by letting a service do what services do. Run as the image is built.

Messages by UDP and TCP go through every stage that has kernels, under control, until something was learned and decided.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CONFIG = """
sources:
  datagrams: {{type: udp, bind: "127.0.0.1:{udp}"}}
  frames: {{type: tcp, bind: "127.0.0.1:{tcp}", framing: length}}
stages:
  - {{type: decode}}
  - {{type: meter}}
  - {{type: inspect, rules: rules.yaml}}
  - {{type: compress, levels: [1, 3]}}
sinks:
  out: {{type: jsonl, path: out/, payload: base64}}
control: {{mode: auto}}
profiles: {{database: profiles.db}}
admin: {{bind: "127.0.0.1:{page}"}}
"""
RULES = "- {id: 1, name: password in clear, pattern: 'password=[^&]{1,64}', severity: low}\n"
PATIENCE_SECONDS = 300.0


def free_ports(count: int) -> list[int]:
    """A build may share the network of its host."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def get(path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{page}{path}", timeout=30) as answer:
        return bytes(answer.read())


def until(service: subprocess.Popen[bytes], what: str) -> None:
    """Wait for a truth of the state, or of ``/readyz``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise SystemExit(f"the service ended with {service.returncode} before it was {what}")
        try:
            get("/readyz")
            state = json.loads(get("/api/v1/state"))
            if what == "ready" or (state["learning"]["learned"] > 0 and state["control"]["outcomes"]):
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"not {what} within {PATIENCE_SECONDS:g} s")


def send(to: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "loadgen", "send", "mixed", "--rate", "500", "--seconds", "4", "--to", to], check=True
    )


os.chdir(tempfile.mkdtemp())
udp, tcp, page = free_ports(3)
Path("warm.yaml").write_text(CONFIG.format(udp=udp, tcp=tcp, page=page))
Path("rules.yaml").write_text(RULES)
service = subprocess.Popen(["streamspec", "run", "warm.yaml"])
try:
    until(service, "ready")
    send(f"udp://127.0.0.1:{udp}")
    until(service, "learning and deciding")
    send(f"tcp://127.0.0.1:{tcp}?framing=length")
    get("/metrics")
finally:
    service.terminate()
    code = service.wait(120)
raise SystemExit(code)
