"""TCP ingest to segments: the ``tcp`` source against a bare ``recv_into`` loop of the same read size.

``python -m benchmarks.tcp_ingest [--json] [--seconds 2] [--quick]``

A sender process on the last core writes frames of one size as fast as it can; this process, on the first core,
receives. The bare loop looks at nothing: its rate is what loopback and the kernel's copy allow on this machine at
this moment, so the ratio says what framing into segments costs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import uvloop

from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Slots
from streamspec.sources.tcp import TcpConfig
from streamspec.testing.intake import RecordingIntake

READ_BYTES = 64 * 1024
WARM_UP_SECONDS = 0.3
LAST_CORE = max(os.sched_getaffinity(0))
SENDER = """
import socket, struct, sys
port, framing, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
frame = struct.pack(">I", size) + b"x" * size if framing == "length" else b"x" * size + b"\\n"
content = frame * max(1, (1 << 20) // len(frame))
with socket.create_connection(("127.0.0.1", port)) as peer:
    try:
        while True:
            peer.sendall(content)
    except OSError:
        pass
"""


@dataclass
class Rate:
    """What one receiver took in, and its CPU time."""

    name: str
    bytes_per_second: float
    frames_per_second: float
    cpu_ns_per_kib: float


class CountingIntake(RecordingIntake):
    """Counts and frees at once what is committed."""

    total_bytes = total_frames = 0

    def __init__(self) -> None:
        super().__init__(slots=256, clock=SystemClock())
        self.begun = asyncio.Event()

    def commit(self, slots: Sequence[int] | Slots) -> None:
        self.begun.set()
        slots = np.asarray(slots, dtype=np.int32)
        self.total_bytes += int(self.headers["length"][slots].sum())
        self.total_frames += int(self.headers["packets"][slots].sum())
        for slot in slots.tolist():
            self.release(slot)


def start_sender(port: int, framing: str, size: int) -> subprocess.Popen[bytes]:
    """A sender pinned to the last core; it ends when its connection does."""
    return subprocess.Popen(
        ["taskset", "-c", str(LAST_CORE), sys.executable, "-c", SENDER, str(port), framing, str(size)]
    )


def bare(seconds: float) -> Rate:
    """Receive and look at nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = start_sender(listener.getsockname()[1], "length", 1024)
        peer, _ = listener.accept()
        content = memoryview(bytearray(READ_BYTES))
        with peer:
            warm = time.perf_counter() + WARM_UP_SECONDS
            while time.perf_counter() < warm:
                peer.recv_into(content)
            total, started, cpu = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() < started + seconds:
                total += peer.recv_into(content)
            elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    sender.wait()
    return Rate("bare recv_into", total / elapsed, 0.0, cpu * 1e9 * 1024 / total)


async def source(framing: str, size: int, connections: int, seconds: float) -> Rate:
    """Receive with the source."""
    intake = CountingIntake()
    tcp = TcpConfig.model_validate({"type": "tcp", "bind": "127.0.0.1:0", "framing": framing}).build("tcp")
    await tcp.open(intake)
    run = asyncio.create_task(tcp.run())
    senders = [start_sender(tcp.address[1], framing, size) for _ in range(connections)]
    await intake.begun.wait()
    await asyncio.sleep(WARM_UP_SECONDS)
    before, frames = intake.total_bytes, intake.total_frames
    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    total, frames = intake.total_bytes - before, intake.total_frames - frames
    await tcp.stop()
    await run
    await tcp.close()
    intake.close()
    for sender in senders:
        sender.wait()
    name = f"tcp source, {framing}, {size} bytes, {connections} connection{'s' * (connections > 1)}"
    return Rate(name, total / elapsed, frames / elapsed, cpu * 1e9 * 1024 / total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all and print them with their ratio to the bare loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each run")
    parser.add_argument("--quick", action="store_true", help="runs of half a second")
    options = parser.parse_args(arguments)
    seconds = 0.5 if options.quick else options.seconds
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        rates = [bare(seconds)]
        for framing, size, connections in (("length", 1024, 1), ("length", 1024, 4), ("newline", 200, 1)):
            rates.append(uvloop.run(source(framing, size, connections, seconds)))
        rates.append(bare(seconds))  # again at the end: on a shared machine the yardstick moves too
    finally:
        os.sched_setaffinity(0, allowed)
    best = max(rates[0].bytes_per_second, rates[-1].bytes_per_second)
    if options.json:
        print(json.dumps([{**asdict(rate), "ratio_to_bare": rate.bytes_per_second / best} for rate in rates]))
        return 0
    for rate in rates:
        print(
            f"{rate.name:45} {rate.bytes_per_second / 1e9:5.2f} GB/s {rate.frames_per_second / 1e6:6.2f} M frames/s "
            f"{rate.cpu_ns_per_kib:5.0f} ns/KiB  {rate.bytes_per_second / best:4.2f} of bare"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
