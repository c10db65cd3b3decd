"""Two lanes on a shaped link: shares as decided, and a light lane that a heavy one does not delay.

``python -m benchmarks.bandwidth [--json] [--seconds S] [--link "100 Mbit/s"] [--repeats N]``. Needs root: a veth pair
between two network namespaces of its own. First both lanes send as much as they can, with shares of 70 and 25 % of
the link, which are then exchanged. Then a light lane sends 500 small datagrams a second: alone, beside a heavy lane
with a class of its own, and beside it in one class (what it would be without lanes). Latency counts from the call that
sends a datagram to the kernel's time stamp at the receiver, so that it is the link's and not the scheduler's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamspec.actuators.bandwidth import Bandwidth
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.shares import EgressShare
from streamspec.core.units import parse_bytes_per_second
from streamspec.sinks.egress import set_priority
from streamspec.testing.namespaces import inside, ip, network_namespace

NEAR, FAR = "10.77.0.1", "10.77.0.2"
PORTS = {"first": 9001, "second": 9002, "light": 9003}
FLOOD_BYTES, LIGHT_BYTES = 1400, 200
FRAME_OVERHEAD_BYTES = 14 + 20 + 8
"""Ethernet, IPv4 and UDP headers, which the kernel counts."""
LIGHT_PER_SECOND = 500
SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("<q")


# -- processes of their own, in one of the namespaces ---------------------------------------------
def flood(port: int, priority_class: str, seconds: float) -> None:
    """Send as much as the socket takes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        set_priority(sender, priority_class, "benchmark")
        sender.connect((FAR, port))
        payload, until = b"x" * FLOOD_BYTES, time.monotonic() + seconds
        while time.monotonic() < until:
            _send(sender, payload)


def _send(sender: socket.socket, content: bytes) -> None:
    with contextlib.suppress(ConnectionRefusedError):  # the receiver has seen enough
        sender.send(content)


def trickle(port: int, priority_class: str, seconds: float) -> None:
    """Small datagrams at fixed times, each with the time at which it left."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        set_priority(sender, priority_class, "benchmark")
        sender.connect((FAR, port))
        begin_ns, rest = time.time_ns(), b"x" * (LIGHT_BYTES - _STAMP.size)
        for number in range(int(seconds * LIGHT_PER_SECOND)):
            due_ns = begin_ns + number * 1_000_000_000 // LIGHT_PER_SECOND
            time.sleep(max(0.0, (due_ns - time.time_ns()) / 1e9))
            _send(sender, _STAMP.pack(time.time_ns()) + rest)


def receive(port: int, skip_seconds: float, seconds: float) -> None:
    """Print what came in between the two times: bytes per second on the wire, and latencies if they are stamped."""
    latencies, received = [], 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.bind((FAR, port))
        receiver.settimeout(5.0)
        print("ready", flush=True)
        begin: float | None = None
        with contextlib.suppress(TimeoutError):
            while begin is None or time.monotonic() < begin + seconds:
                content, ancillary, _, _ = receiver.recvmsg(2048, 128)
                begin = time.monotonic() + skip_seconds if begin is None else begin
                if time.monotonic() < begin:
                    continue
                received += len(content) + FRAME_OVERHEAD_BYTES
                if len(content) == LIGHT_BYTES:
                    whole, nanoseconds = struct.unpack("=qq", ancillary[0][2])
                    latencies.append(whole * 1_000_000_000 + nanoseconds - _STAMP.unpack_from(content)[0])
    milliseconds = np.percentile(latencies, (50, 99)) / 1e6 if latencies else (0.0, 0.0)
    result = {"bytes_per_second": received / seconds, "p50_ms": milliseconds[0], "p99_ms": milliseconds[1]}
    print(json.dumps(result), flush=True)


# -- the experiment ---------------------------------------------------------------------------------
class Link:
    """Two namespaces and the veth pair between them."""

    def __init__(self, near: str, far: str) -> None:
        self.near, self.far = near, far
        ip(near, "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", far)
        for namespace, name, address in ((near, "out", NEAR), (far, "in", FAR)):
            ip(namespace, "addr", "add", f"{address}/24", "dev", name)
            ip(namespace, "link", "set", name, "up")

    def start(self, namespace: str, role: str, *arguments: object) -> subprocess.Popen[str]:
        """One of the processes above."""
        command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "benchmarks.bandwidth", "--role", role]
        return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True)

    def receiver(self, lane: str, skip_seconds: float, seconds: float) -> subprocess.Popen[str]:
        """Started and listening."""
        process = self.start(self.far, "receive", PORTS[lane], skip_seconds, seconds)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


def _result(process: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = process.communicate(timeout=60)
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


async def shares(link: Link, actuator: Bandwidth, seconds: float, decided: dict[str, float]) -> dict[str, Any]:
    """What two flooding lanes get, against what was decided and what the kernel confirmed."""
    rate = actuator.link_bytes_per_second
    applied = await actuator.apply({lane: EgressShare(part * rate, part * rate) for lane, part in decided.items()})
    receivers = {lane: link.receiver(lane, 1.0, seconds) for lane in decided}
    senders = [link.start(link.near, "flood", PORTS[lane], actuator.class_of(lane), seconds + 2.5) for lane in decided]
    results = {lane: (await asyncio.to_thread(_result, process)) for lane, process in receivers.items()}
    for sender in senders:
        await asyncio.to_thread(sender.communicate)
    return {
        lane: {
            "decided_mbit": round(decided[lane] * rate * 8 / 1e6, 2),
            "granted_mbit": round(applied.observed[lane].bytes_per_second * 8 / 1e6, 2),
            "measured_mbit": round(results[lane]["bytes_per_second"] * 8 / 1e6, 2),
            "error_ratio": round(results[lane]["bytes_per_second"] / (decided[lane] * rate) - 1, 4),
        }
        for lane in decided
    }


async def latency(link: Link, classes: tuple[str, str | None], seconds: float) -> dict[str, float]:
    """The light lane's latency with a heavy sender in the second class (``None``: without one)."""
    light, heavy = classes
    heavy_sender = None
    if heavy is not None:
        heavy_sender = link.start(link.near, "flood", PORTS["first"], heavy, seconds + 3)
        await asyncio.sleep(0.8)
    receiver = link.receiver("light", 0.5, seconds)
    sender = link.start(link.near, "trickle", PORTS["light"], light, seconds + 1)
    result = await asyncio.to_thread(_result, receiver)
    for process in (sender, heavy_sender):
        if process is not None:
            await asyncio.to_thread(process.communicate)
    return {name: round(result[name], 3) for name in ("p50_ms", "p99_ms")}


@contextlib.contextmanager
def _namespaces() -> Iterator[Link]:
    with network_namespace() as near, network_namespace() as far:
        yield Link(near, far)


async def measure(link: Link, rate: float, seconds: float, repeats: int) -> dict[str, Any]:
    """All parts."""
    with tempfile.TemporaryDirectory() as notes, inside(link.near):
        actuator = Bandwidth("out", rate, Leftovers(Path(notes)))
        ready = await actuator.probe()
        if not ready.active:
            raise SystemExit(str(ready))
        try:
            result: dict[str, Any] = {
                "as_decided": await shares(link, actuator, seconds, {"first": 0.70, "second": 0.25}),
                "exchanged": await shares(link, actuator, seconds, {"first": 0.25, "second": 0.70}),
            }
            await actuator.retain(set())
            await actuator.apply({"light": EgressShare(0.1 * rate), "heavy": EgressShare(0.8 * rate, urgency=1)})
            light, heavy = actuator.class_of("light") or "", actuator.class_of("heavy")
            rounds = [
                {
                    "alone": await latency(link, (light, None), seconds),
                    "own_class": await latency(link, (light, heavy), seconds),
                    "one_class": await latency(link, (light, light), seconds),
                }
                for _ in range(repeats)
            ]
        finally:
            await actuator.restore()
    result["latency"] = rounds
    for name in ("alone", "own_class", "one_class"):
        result[f"light_p99_ms_{name}"] = statistics.median(row[name]["p99_ms"] for row in rounds)
    return result


def main() -> None:
    """Run, or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--link", default="100 Mbit/s")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role:
        role, port, *rest = arguments.role
        if role == "receive":
            receive(int(port), *map(float, rest))
        else:
            {"flood": flood, "trickle": trickle}[role](int(port), rest[0], float(rest[1]))
        return
    rate = parse_bytes_per_second(arguments.link)
    with _namespaces() as link:
        result = asyncio.run(measure(link, rate, arguments.seconds, arguments.repeats))
    if arguments.json:
        print(json.dumps(result))
        return
    for part in ("as_decided", "exchanged"):
        for lane, row in result[part].items():
            print(f"{part}: {lane}: {row}")
    for row in result["latency"]:
        print(row)
    print({name: value for name, value in result.items() if name.startswith("light")})


if __name__ == "__main__":
    main()
