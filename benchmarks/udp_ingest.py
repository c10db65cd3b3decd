"""UDP ingest to segments: the ``udp`` source against a bare uvloop protocol that only counts.

``python -m benchmarks.udp_ingest [--json] [--rate 400000] [--seconds 5] [--quick]``

A generator process on the last core sends 200-byte datagrams over loopback by ``sendmmsg`` at a paced rate
(open loop); this process, on the first core, receives. No loss means: received = sent, and neither the socket
nor the source dropped any. Then the rate is stepped up to find the highest one without loss, and datagrams of
thousands of slow peers are sent, which open a segment each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import uvloop

from benchmarks._outgoing import Outgoing
from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Slots
from streamspec.sources.udp import UdpConfig
from streamspec.sources.udp_socket import grow_receive_buffer, read_socket_drops
from streamspec.testing.intake import SMALL_LAYOUT, RecordingIntake

DATAGRAM_BYTES = 200
GENERATOR_BATCH = 64
RECEIVE_BUFFER_BYTES = 16 << 20
TARGET_RATE = 400_000
MOST_ATTEMPTS = 3
"""A loss while another process had the core says nothing about the source; each attempt is reported."""
NICENESS = -15
"""Of receiver and generator alike, where permitted: nearer to a host that does nothing else."""


# -- generator --------------------------------------------------------------------------------
def generate(port: int, rate: float, seconds: float, peers: int) -> dict[str, float]:
    """Send at ``rate`` datagrams/s in turn from ``peers`` sockets; what was really sent and how fast."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(peers)]
    for one in sockets:
        one.connect(("127.0.0.1", port))
    descriptors = [one.fileno() for one in sockets]
    batch = GENERATOR_BATCH if peers == 1 else 1
    payload = np.full(DATAGRAM_BYTES, 0x61, dtype=np.uint8)
    outgoing = Outgoing(payload, [0] * batch, DATAGRAM_BYTES)
    sent = turn = 0
    total = int(rate * seconds)
    started = time.perf_counter()
    while sent < total:
        elapsed = time.perf_counter() - started
        if elapsed > 2 * seconds:
            break
        while sent < min(total, rate * elapsed):
            sent += outgoing.send(descriptors[turn], 0, batch)
            turn = (turn + 1) % peers
    elapsed = time.perf_counter() - started
    for one in sockets:
        one.close()
    return {"sent": sent, "rate": sent / elapsed}


async def start_generator(port: int, rate: float, seconds: float, peers: int) -> dict[str, float]:
    """Run :func:`generate` in a process of its own, pinned to the last core."""
    arguments = ["-m", "benchmarks.udp_ingest", "--generate", str(port), str(rate), str(seconds), str(peers)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    result: dict[str, float] = json.loads(output)
    return result


# -- receivers --------------------------------------------------------------------------------
class CountingIntake(RecordingIntake):
    """Counts and frees at once what is committed."""

    committed_segments = committed_packets = 0

    def commit(self, slots: Sequence[int] | Slots) -> None:
        slots = np.asarray(slots, dtype=np.int32)
        self.committed_segments += len(slots)
        self.committed_packets += int(self.headers["packets"][slots].sum())
        self.arena.release_many(slots)


class CountingProtocol(asyncio.DatagramProtocol):
    """The least that a receiver on asyncio can do."""

    packets = 0

    def datagram_received(self, content: bytes, address: Any) -> None:
        self.packets += 1


@dataclass
class Reception:
    """One run: what was sent, what arrived, what was dropped where, and what it cost."""

    asked_rate: float
    sent_rate: float
    sent: int
    received: int
    socket_drops: int
    own_drops: int
    segments: int
    cpu_seconds: float
    preempted: int  # times that another process took the receiver's core

    @property
    def lossless(self) -> bool:
        """Nothing dropped, everything here, and the generator reached the rate that was asked."""
        return self.received == self.sent and not self.socket_drops and not self.own_drops

    @property
    def cpu_ns(self) -> float:
        """CPU time of the receiver per datagram."""
        return self.cpu_seconds * 1e9 / max(self.received, 1)


def _preempted() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


async def receive_by_source(rate: float, seconds: float, peers: int = 1, slots: int = 1400) -> Reception:
    """The source with an intake that counts and frees at once."""
    intake = CountingIntake(slots=slots, layout=SMALL_LAYOUT, clock=SystemClock())
    source = UdpConfig(type="udp", bind="127.0.0.1:0", receive_buffer_bytes=RECEIVE_BUFFER_BYTES).build("bench")
    await source.open(intake)
    running = asyncio.create_task(source.run())
    cpu, preempted = time.process_time(), _preempted()
    result = await start_generator(source.address[1], rate, seconds, peers)
    await source.stop()
    await running
    cpu, preempted = time.process_time() - cpu, _preempted() - preempted
    await source.close()
    drops = intake.tally["socket_drops"]
    own = intake.tally["arena_full_drops"] + intake.tally["truncated_datagrams"]
    received, segments = intake.committed_packets, intake.committed_segments
    intake.close()
    return Reception(rate, result["rate"], int(result["sent"]), received, drops, own, segments, cpu, preempted)


async def receive_by_protocol(rate: float, seconds: float, peers: int = 1) -> Reception:
    """uvloop's datagram transport with a protocol that counts."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    grow_receive_buffer(bound, RECEIVE_BUFFER_BYTES)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(CountingProtocol, sock=bound)
    cpu, preempted = time.process_time(), _preempted()
    result = await start_generator(bound.getsockname()[1], rate, seconds, peers)
    drops = read_socket_drops(bound)
    for _ in range(100):
        if protocol.packets + drops >= result["sent"]:
            break
        await asyncio.sleep(0.01)
    cpu, preempted = time.process_time() - cpu, _preempted() - preempted
    transport.close()
    await asyncio.sleep(0)
    return Reception(rate, result["rate"], int(result["sent"]), protocol.packets, drops, 0, 0, cpu, preempted)


# -- measurement ------------------------------------------------------------------------------
Receiver = Callable[[float, float], Awaitable[Reception]]


async def highest_lossless_rate(receive: Receiver, rates: Sequence[int], seconds: float) -> Reception | None:
    """Step through ascending rates until one loses; the last one that did not, None when the first did."""
    best = None
    for rate in rates:
        reception = await receive(rate, seconds)
        if not reception.lossless and not (reception := await receive(rate, seconds)).lossless:
            break
        best = reception
        if reception.sent_rate < 0.97 * rate:
            break  # the generator is at its end, not the receiver
    return best


async def measure(rate: int, seconds: float, *, quick: bool) -> dict[str, Any]:
    """All numbers of this benchmark."""
    attempts: list[Reception] = []
    while len(attempts) < MOST_ATTEMPTS and not any(one.lossless for one in attempts):
        attempts.append(await receive_by_source(rate, seconds))
    paced = attempts[-1]
    peer = await receive_by_protocol(rate, seconds)
    found: dict[str, Any] = {
        "benchmark": "udp_ingest",
        "datagram_bytes": DATAGRAM_BYTES,
        "target_rate": TARGET_RATE,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "source": describe(paced),
        "attempts_with_loss": [describe(one) for one in attempts if not one.lossless],
        "uvloop_protocol": describe(peer),
        "cpu_ratio_to_uvloop_protocol": round(paced.cpu_ns / peer.cpu_ns, 3),
        "passed": paced.lossless and paced.sent_rate >= 0.99 * rate >= 0.99 * TARGET_RATE,
    }
    if not quick:
        steps = range(300_000, 1_000_001, 50_000)
        for name, receive in (("source", receive_by_source), ("uvloop_protocol", receive_by_protocol)):
            best = await highest_lossless_rate(receive, steps, 1.5)
            found[f"highest_lossless_{name}"] = describe(best) if best else None
        found["sparse_peers"] = describe(await receive_by_source(100_000, 2.0, peers=5000))
    return found


def describe(reception: Reception) -> dict[str, Any]:
    """For the JSON object."""
    return {
        **asdict(reception),
        "sent_rate": round(reception.sent_rate),
        "cpu_seconds": round(reception.cpu_seconds, 3),
        "cpu_ns_per_datagram": round(reception.cpu_ns),
        "lossless": reception.lossless,
    }


def _print(found: dict[str, Any]) -> None:
    for name, value in found.items():
        if not isinstance(value, dict):
            print(f"{name}: {value}")
            continue
        print(
            f"{name}: sent {value['sent']:,} at {value['sent_rate']:,}/s, received {value['received']:,} in "
            f"{value['segments']:,} segments, socket drops {value['socket_drops']:,}, own {value['own_drops']:,}, "
            f"{value['cpu_ns_per_datagram']} ns of CPU each, preempted {value['preempted']} times"
        )


def main() -> int:
    """Exit code 1 when the target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rate", type=int, default=TARGET_RATE, help="datagrams/s of the paced run")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the paced run")
    parser.add_argument("--quick", action="store_true", help="only the paced runs, no stepping")
    parser.add_argument("--generate", nargs=4, metavar="N", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.generate:
        os.sched_setaffinity(0, {int(os.environ.get("GENERATOR_CORE", cores[-1]))})
        port, rate, seconds, peers = options.generate
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        print(json.dumps(generate(int(port), float(rate), float(seconds), int(peers))))
        return 0
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    os.environ["GENERATOR_CORE"] = str(cores[-1])
    os.sched_setaffinity(0, {cores[0]})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(options.rate, options.seconds, quick=options.quick))
    print(json.dumps(found)) if options.json else _print(found)
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
