"""Resident memory of the whole service over a steady load.

``python -m benchmarks.memory [--json] [--seconds 600] [--rate 10000]``. ``streamspec run`` takes generated messages by
UDP, inspects and compresses them and writes JSON lines with rotation; the proportional set size of its process tree is
read every few seconds. Flat means that the last third needs no more than the middle third.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
SAMPLE_SECONDS = 5.0


def _configuration(port: int, folder: Path) -> str:
    return f"""
sources: {{packets: {{type: udp, bind: "127.0.0.1:{port}", linger: 5 ms}}}}
stages:
  - {{type: inspect, rules: {ROOT / "configs/rules/basic.yaml"}}}
  - {{type: compress, levels: [1, 3, 9]}}
sinks: {{out: {{type: jsonl, path: "{folder}/out/", max_file_bytes: 16 MiB, keep_files: 2, payload: base64}}}}
engine: {{workers: 2}}
"""


def tree_bytes(root: psutil.Process) -> int:
    """Proportional set size of a process and all below it: shared pages count once."""
    processes = [root, *root.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes)


def measure(seconds: float, rate: int) -> dict[str, float]:
    """Samples of memory while the load lasts."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        (folder / "memory.yaml").write_text(_configuration(port, folder))
        service = subprocess.Popen(
            [sys.executable, "-m", "streamspec", "run", str(folder / "memory.yaml"), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        time.sleep(8)
        load = ["send", "mixed", "--to", f"udp://127.0.0.1:{port}", "--seconds", str(seconds), "--rate", str(rate)]
        generator = subprocess.Popen([sys.executable, "-m", "loadgen", *load], stdout=subprocess.DEVNULL, cwd=ROOT)
        samples: list[int] = []
        while generator.poll() is None:
            samples.append(tree_bytes(psutil.Process(service.pid)))
            time.sleep(SAMPLE_SECONDS)
        service.send_signal(signal.SIGTERM)
        summary = json.loads(service.communicate(timeout=60)[0])
    third = len(samples) // 3
    middle, last = (statistics.median(part) for part in (samples[third : 2 * third], samples[2 * third :]))
    return {
        "seconds": seconds,
        "samples": len(samples),
        "first_third_mib": round(statistics.median(samples[:third]) / 2**20, 1),
        "middle_third_mib": round(middle / 2**20, 1),
        "last_third_mib": round(last / 2**20, 1),
        "largest_mib": round(max(samples) / 2**20, 1),
        "growth_ratio": round(last / middle, 4),
        "segments_received": summary["segments_received"],
        "segments_lost": summary["segments_lost"],
        "packets_received": summary["packets_received"],
    }


def main() -> None:
    """Print the medians of three thirds of the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rate", type=int, default=10_000)
    arguments = parser.parse_args()
    result = measure(arguments.seconds, arguments.rate)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:20s} {value:>14,}")


if __name__ == "__main__":
    main()
