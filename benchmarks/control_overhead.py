"""What profiler, learner and controller together cost at saturation: ``auto`` beside a service that has none of them.

``python -m benchmarks.control_overhead [--json] [--rounds 5] [--seconds 8]``

The chain inspect + compress (level 3) takes segments of 64 KiB of real captures (``STREAMSPEC_CAPTURES``; generated
packets where there are none) as fast as it can, with as many workers as cores. Both run in turn; the ratio of a round
is that of its two neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.flows import write_capture

ROOT = Path(__file__).parents[1]


def configuration(capture: Path, *, controlled: bool) -> dict[str, Any]:
    """Of a service that reads the capture for ever."""
    cores = len(os.sched_getaffinity(0))
    config: dict[str, Any] = {
        "sources": {"capture": {"type": "pcap", "path": str(capture), "segment_bytes": 64 * 1024, "repeat": 0}},
        "stages": [
            {"type": "inspect", "rules": str(ROOT / "configs/rules/basic.yaml"), "cache_bytes": 0},
            {"type": "compress", "level": 3},
        ],
        "sinks": {"out": {"type": "null"}},
        "engine": {"workers": cores, "segment_bytes": 64 * 1024, "arena_bytes": 64 * 1024 * 1024},
    }
    if not controlled:
        config |= {"control": {"mode": "off"}, "profiler": {"enabled": False}, "learning": {"enabled": False}}
    return config


def bytes_per_second(config: Path, seconds: float) -> float:
    """Of the whole service, from its start on."""
    command = [sys.executable, "-m", "streamspec", "run", str(config), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        out, error = process.communicate(timeout=seconds)
        raise SystemExit(f"ended early: {error[-1000:]}")
    except subprocess.TimeoutExpired:
        process.terminate()
        out, _ = process.communicate(timeout=60)
    summary = json.loads(out)
    return float(summary["bytes_received"] / summary["elapsed_seconds"])


def main() -> None:
    """Print the ratio of each round and their median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_capture(folder / "captures.pcap", 300_000)
        configs = {}
        for controlled in (False, True):
            configs[controlled] = folder / f"{controlled}.yaml"
            configs[controlled].write_text(json.dumps(configuration(folder / "captures.pcap", controlled=controlled)))
        for turn in range(options.rounds):
            order = (False, True) if turn % 2 else (True, False)
            rates = {controlled: bytes_per_second(configs[controlled], options.seconds) for controlled in order}
            ratios.append(rates[True] / rates[False])
            row = {"round": turn, "plain": rates[False], "auto": rates[True], "ratio": ratios[-1]}
            print(json.dumps(row) if options.json else f"auto / plain {ratios[-1]:.3f}  {row}", flush=True)
    median = statistics.median(ratios)
    print(json.dumps({"ratio": median}) if options.json else f"median {median:.3f}: {1 - median:.1%} of throughput")


if __name__ == "__main__":
    main()
