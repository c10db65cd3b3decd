"""A capture to its flow table on one core: the whole service beside nfstream, tshark where installed, and dpkt.

``python -m benchmarks.flows [--json] [--packets 1000000] [--repeat 40] [--core 0]``

The Ethernet captures of the folder of real captures (``STREAMSPEC_CAPTURES``; generated packets where there is
none) are laid one behind the other, gaps clamped to a second, and repeated with later times to a million
packets in one file. Every program is pinned to the same core and counted from its first packet to its last flow
record, without its start; streamspec reads the file ``--repeat`` times so that this takes seconds. It runs as users
run it: ``configs/flows.yaml``, dispatcher and worker together on that core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.flow_kernels import CAPTURES, captured_packets, generated_packets

ROOT = Path(__file__).parents[1]


def write_capture(path: Path, packets: int) -> int:
    """One classic capture with nanoseconds and rising times; returns its packets."""
    import dpkt

    source = captured_packets(CAPTURES) if CAPTURES.is_dir() else generated_packets()
    written, now_ns, last_ns = 0, 10**18, 0
    with path.open("wb") as file:
        # libpcap cuts packets beyond the length that the file names
        writer = dpkt.pcap.Writer(file, snaplen=262144, nano=True)
        while written < packets:
            for timestamp_ns, packet in source:
                now_ns += min(max(timestamp_ns - last_ns, 1000), 10**9)
                last_ns = timestamp_ns
                writer.writepkt_time(packet, now_ns / 1e9)
                written += 1
        file.flush()
        os.fsync(file.fileno())  # nobody is measured while the system still writes it
    return written


def streamspec_command(path: Path, out: Path, repeat: int) -> list[str]:
    """The whole service, as users run it, with one worker."""
    command = [sys.executable, "-m", "streamspec", "run", "configs/flows.yaml", "--json"]
    settings = (f"sources.capture.path={path}", f"sources.capture.repeat={repeat}", f"sinks.out.path={out}")
    for setting in (*settings, "engine.workers=1"):
        command += ["--set", setting]
    return command


def streamspec(path: Path, core: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Packets per second of the whole service."""
    out = folder / "flows.jsonl"
    out.unlink(missing_ok=True)
    command = ["taskset", "-c", str(core), *streamspec_command(path, out, repeat)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    summary = json.loads(done.stdout)
    return {
        "packets_per_second": summary["packets_received"] / summary["elapsed_seconds"],
        "flows": sum(1 for _ in out.open("rb")),
        "lost": summary["segments_lost"] + summary["segments_shed"],
    }


_NFSTREAM = """
import json, sys, time
from nfstream import NFStreamer
streamer = NFStreamer(source=sys.argv[1], n_meters=1, n_dissections=0, statistical_analysis=False,
                      idle_timeout=30, active_timeout=300)
started = time.monotonic()
packets = flows = 0
for flow in streamer:
    packets += flow.bidirectional_packets
    flows += 1
print(json.dumps({"packets_per_second": packets / (time.monotonic() - started), "flows": flows}))
"""

_DPKT = """
import dpkt, json, sys, time
started = time.monotonic()
flows, packets = {}, 0
with open(sys.argv[1], "rb") as file:
    for _, packet in dpkt.pcap.UniversalReader(file):
        packets += 1
        try:
            ip = dpkt.ethernet.Ethernet(packet).data
        except Exception:
            continue
        if isinstance(ip, (dpkt.ip.IP, dpkt.ip6.IP6)):
            l4 = ip.data
            key = (ip.src, ip.dst, getattr(l4, "sport", 0), getattr(l4, "dport", 0))
            entry = flows.setdefault(key, [0, 0])
            entry[0] += 1
            entry[1] += len(ip)
print(json.dumps({"packets_per_second": packets / (time.monotonic() - started), "flows": len(flows)}))
"""


def python_peer(program: str, path: Path, core: int | None) -> dict[str, Any]:
    """A peer that is a Python package, on one core or on all; says why when it does not run."""
    command = [*(() if core is None else ("taskset", "-c", str(core))), sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"not_run": done.stderr.strip().splitlines()[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def tshark(path: Path, core: int, packets: int) -> dict[str, Any]:
    """tshark's table of TCP conversations."""
    if shutil.which("tshark") is None:
        return {"not_run": "tshark is not installed"}
    command = ["taskset", "-c", str(core), "tshark", "-n", "-q", "-r", str(path), "-z", "conv,ip"]
    started = time.monotonic()
    subprocess.run(command, capture_output=True, check=True)
    return {"packets_per_second": packets / (time.monotonic() - started)}


def main() -> None:
    """Print one line per program, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture = folder / "captures.pcap"
        packets = write_capture(capture, arguments.packets)
        results = {
            "streamspec": streamspec(capture, arguments.core, arguments.repeat, folder),
            "nfstream": python_peer(_NFSTREAM, capture, arguments.core),
            "nfstream, all cores": python_peer(_NFSTREAM, capture, None),
            "dpkt": python_peer(_DPKT, capture, arguments.core),
            "tshark": tshark(capture, arguments.core, packets),
            "streamspec again": streamspec(capture, arguments.core, arguments.repeat, folder),
        }
    ours = max(results[name]["packets_per_second"] for name in ("streamspec", "streamspec again"))
    for name, result in results.items():
        rate = result.get("packets_per_second")
        if rate:
            result["streamspec_times_faster"] = round(ours / rate, 1)
        if arguments.json:
            print(json.dumps({"program": name, **result}))
        else:
            shown = f"{rate / 1e6:6.2f} million packets/s" if rate else f"not run: {result['not_run']}"
            print(f"{name:20s} {shown}  {json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
