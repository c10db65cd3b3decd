"""Job D: packets of an interface to flows, on a veth pair in a network namespace of its own.

The contender has all cores but the last, on which this process sends frames of 200 bytes in a thousand flows by
``sendmmsg`` at a paced rate. What is looked for is the highest rate without a drop: each packet is in a flow, and the
kernel says that it dropped none. A rate at which nearly nothing was lost is tried once more, as another process may
have had the core. ``tcpdump`` only writes packets: the floor. All have rings of 64 MiB or what they advise.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from typing import Any

import numpy as np

from benchmarks._outgoing import Outgoing
from benchmarks.proof import flow_tables, peers
from benchmarks.proof.flow_tables import Key, Table
from benchmarks.proof.harness import ROOT, Contender, Job, Measures, NotRun, Wrong, own_version
from benchmarks.proof.highest_rate import highest_rate
from benchmarks.proof.job_b import memory_folder, own_core, receiver_cores
from benchmarks.proof.pace import Pace
from benchmarks.proof.processes import Tree
from streamspec.testing.namespaces import add_pair, inside, network_namespace

SCRIPTS = Path(__file__).with_name("job_d_peers")
FRAME_BYTES, FLOWS, BATCH = 200, 1000, 50
TICK_FLOW = FLOWS
TICK_SECONDS = 0.02
RING_BYTES = 64 << 20
FIRST_RATE, MOST_RATE = 50_000.0, 3_000_000.0
SENDER_SHORTFALL = 0.9
NEARLY = 0.01
"""A smaller share lost is tried once more."""
START_SECONDS, SETTLE_SECONDS, QUIET_SECONDS, DRAIN_SECONDS = 60.0, 0.5, 2.5, 15.0
RETIRE_SECONDS = 1.2
"""tcpdump lets the kernel keep a block of the ring that is not full for a second."""
IDLE_SHARE = 0.05
"""Of a core: a program that takes less has nothing left to do."""
PACKET_QDISC_BYPASS, SOL_PACKET = 20, 263
ALL_PROTOCOLS = "0003"


class FrameSender:
    """Sends frames of all flows in turn on ``wire1``."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.bind(("wire1", 0))
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._namespace = namespace
        frames = np.frombuffer(b"".join(frame(flow) for flow in range(FLOWS)), dtype=np.uint8).copy()
        self._outgoing = Outgoing(frames, np.arange(FLOWS) * FRAME_BYTES, FRAME_BYTES)

    def send(self, rate: float, seconds: float) -> tuple[int, float]:
        """At this rate for so long, or until twice the time is over: frames sent, and the rate they had."""
        pace, sent = Pace(rate, seconds), 0
        while sent < pace.total and (due := pace.due(sent)) >= 0:
            if sent < due:
                first = sent % FLOWS
                count = min(BATCH, pace.total - sent, FLOWS - first)
                sent += self._outgoing.send(self._socket.fileno(), first, count)
        return sent, pace.reached(sent)

    def tick(self) -> None:
        """One frame of a flow that does not count, for programs whose time goes on with packets."""
        self._socket.send(frame(TICK_FLOW))

    def forwarded(self) -> int:
        """Frames that came through the wire: the kernel counts here those that it had no room for between its ends."""
        command = ("ip", "-n", self._namespace, "-j", "-s", "link", "show", "wire1")
        shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return int(shown[0]["stats64"]["tx"]["packets"])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def frame(flow: int) -> bytes:
    """A UDP packet of this flow, without checksums."""
    size = FRAME_BYTES - 14
    addresses = struct.pack("!4s4s", bytes((10, 0, flow >> 8, flow & 255)), bytes((192, 168, 0, 1)))
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, 17, 0)
    total = sum(struct.unpack("!10H", head + addresses))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    ip = head[:10] + struct.pack("!H", checksum) + addresses
    udp = struct.pack("!HHHH", 1024 + flow, 443, size - 20, 0)
    return b"\x02\x00\x00\x00\x00\x02" + b"\x02\x00\x00\x00\x00\x01" + b"\x08\x00" + ip + udp + bytes(size - 28)


def key_of(flow: int) -> Key:
    """Its key in a table."""
    return flow_tables.key_of(17, (f"10.0.{flow >> 8}.{flow & 255}", 1024 + flow), ("192.168.0.1", 443))


def sent_table(sent: int) -> Table:
    """What the flows must be after so many frames."""
    table: Table = {}
    for flow in range(min(FLOWS, sent)):
        flow_tables.add(table, key_of(flow), sent // FLOWS + (flow < sent % FLOWS), 0)
    return table


@dataclass(frozen=True)
class Program:
    """How a contender is started, ended and read.

    Attributes:
        command: from the output file.
        packets: by flow from the output file; None for one that writes packets.
        drops: the kernel's, from what it said and wrote.
        waits: it ends flows only as time goes on, and forgets them at its end; so it is ended once its output says
            everything or nothing more comes.
        ready: what it says when it is ready; otherwise it is half a second after it opened its socket.
    """

    name: str
    command: Callable[[Path], Sequence[str]]
    version: Callable[[], str]
    read: Callable[[Path], Table]
    drops: Callable[[str], int]
    end: Signals = SIGTERM
    waits: bool = False
    ready: str = ""


@dataclass(frozen=True)
class Trial:
    """What became of one rate."""

    sent: int
    sent_rate: float
    counted: int
    duplicated: int
    kernel_drops: int
    cpu_seconds: float
    peak_memory_bytes: int
    first_seconds: float

    @property
    def lost(self) -> int:
        return self.sent - self.counted + self.duplicated

    def borne(self, rate: float) -> bool:
        """Without a drop, at the rate that was asked."""
        return not self.lost and not self.duplicated and not self.sender_limited(rate)

    def sender_limited(self, rate: float) -> bool:
        """The sender did not reach the rate."""
        return self.sent_rate < SENDER_SHORTFALL * rate


class Capture:
    """One contender of the job."""

    def __init__(self, program: Program, seconds: float, precision: float, growth: float) -> None:
        self._program, self._seconds, self._precision, self._growth = program, seconds, precision, growth
        self._found = 0.0
        self._trials: list[tuple[float, Trial]] = []

    def contender(self) -> Contender:
        """For the harness."""
        settings = {"ring_bytes": RING_BYTES, "cores": len(receiver_cores())}
        program = self._program
        return Contender(
            program.name, self.run, program.version, prepare=self._prepare, check=self.check, settings=settings
        )

    def _prepare(self) -> None:
        if os.geteuid():
            raise NotRun("needs root for a network namespace")
        if shutil.which("ip") is None:
            raise NotRun("ip is not installed (Debian package iproute2)")
        self._program.command(Path("OUT"))

    def check(self) -> Measures:
        """At a low rate each flow has exactly the packets that were sent."""
        trial = self.trial(5_000.0)
        if trial.lost or trial.duplicated:
            raise Wrong(f"of {trial.sent} packets at 5000/s, {trial.lost} were lost and {trial.duplicated} doubled")
        return {"packets": trial.sent}

    def run(self, repeat: int) -> Measures:
        """Search the rate from what an earlier repeat found."""
        self._trials.clear()
        start, growth = (self._found * 0.8, 1.25) if self._found else (FIRST_RATE, self._growth)
        rate = highest_rate(self._bears, start, MOST_RATE, growth=growth, precision=self._precision, confirmations=1)
        if not rate:
            raise NotRun("no rate was borne without a drop")
        self._found = rate
        best = next(trial for asked, trial in reversed(self._trials) if asked == rate and trial.borne(asked))
        failed = [(asked, trial) for asked, trial in self._trials if not trial.borne(asked)]
        above = min(failed, key=lambda one: one[0], default=None)
        return {
            "packets_per_second": best.sent_rate,
            "mib_per_second": best.sent_rate * FRAME_BYTES / 2**20,
            "cpu_seconds_per_gib": best.cpu_seconds / (best.sent * FRAME_BYTES / 2**30),
            "peak_memory_bytes": best.peak_memory_bytes,
            "time_to_first_result_seconds": best.first_seconds,
            "sender_limited": above is not None and above[1].sender_limited(above[0]),
            "lost": best.lost,
            "duplicated": best.duplicated,
            "steps": [
                {"packets_per_second": round(asked), "lost": trial.lost, "kernel_drops": trial.kernel_drops}
                for asked, trial in self._trials
            ],
        }

    def _bears(self, rate: float) -> bool:
        for _ in range(2):
            trial = self.trial(rate)
            self._trials.append((rate, trial))
            if trial.borne(rate) or trial.lost > NEARLY * trial.sent:
                break
        return trial.borne(rate)

    def trial(self, rate: float) -> Trial:
        """Start the contender on a new pair, send, end it, and count."""
        program = self._program
        with memory_folder() as folder, wire() as (namespace, sender):
            out = folder / "out"
            command = ["ip", "netns", "exec", namespace, *program.command(out)]
            more: dict[str, Any] = {"sampling": False, "favoured": True, "folder": ROOT}
            with Tree(command, receiver_cores(), folder / "log", **more) as tree:
                ready_seconds = _wait_until_it_captures(tree, program.ready)
                cpu = tree.cpu_seconds()
                with own_core():
                    sent, sent_rate = sender.send(rate, self._seconds)
                through = sender.forwarded()
                if program.waits:
                    _wait_for_packets(program, out, sent, sender)
                else:
                    _wait_until_idle(tree)
                tree.sample()
                cpu = tree.cpu_seconds() - cpu
                tree.stop(program.end)
                counted, duplicated = _count(program.read(out), sent)
                drops = program.drops(tree.output)
            return Trial(through, sent_rate, counted, duplicated, drops, cpu, tree.peak_memory_bytes, ready_seconds)


def _count(table: Table, sent: int) -> tuple[int, int]:
    """Packets in flows that were sent, and those that are too many. Raises Wrong for other flows."""
    wanted = sent_table(sent)
    table.pop(key_of(TICK_FLOW), None)
    counted = sum(counts[0] for counts in table.values())
    for key, counts in table.items():
        if key not in wanted:
            raise Wrong(f"a flow {key} of {counts[0]} packets was never sent")
    return counted, sum(max(0, counts[0] - wanted[key][0]) for key, counts in table.items())


@contextlib.contextmanager
def wire() -> Iterator[tuple[str, FrameSender]]:
    """A namespace with ``wire0`` to capture from, and what sends at its other end."""
    with network_namespace() as namespace:
        add_pair(namespace, "wire0", "wire1")
        sender = FrameSender(namespace)
        try:
            yield namespace, sender
        finally:
            sender.close()


def _wait_until_it_captures(tree: Tree, ready: str) -> float:
    """Seconds from its start until it has a packet socket for all protocols, and has said that it is ready. Raises
    NotRun when it never has."""
    while time.monotonic() - tree.started < START_SECONDS:
        if not tree.running:
            raise NotRun(f"ended: {tree.output.strip().splitlines()[-1:]}")
        with contextlib.suppress(OSError):
            rows = [line.split() for line in Path(f"/proc/{tree.pid}/net/packet").read_text().splitlines()[1:]]
            if any(row[3] == ALL_PROTOCOLS and row[5] == "1" for row in rows) and ready in tree.output:
                passed = time.monotonic() - tree.started
                time.sleep(SETTLE_SECONDS)
                return passed
        time.sleep(0.02)
    raise NotRun(f"captured nothing within {START_SECONDS:.0f} s: {tree.output[-200:]}")


def _wait_until_idle(tree: Tree) -> None:
    """Until it has done with what its ring holds."""
    deadline = time.monotonic() + DRAIN_SECONDS
    before = -1.0
    while (now := tree.cpu_seconds()) - before > IDLE_SHARE * RETIRE_SECONDS and time.monotonic() < deadline:
        before = now
        time.sleep(RETIRE_SECONDS)


def _wait_for_packets(program: Program, out: Path, sent: int, sender: FrameSender) -> None:
    began = last = time.monotonic()
    before, ticks = -1, 0
    while (now := time.monotonic()) - began < DRAIN_SECONDS and now - last < QUIET_SECONDS:
        sender.tick()
        time.sleep(TICK_SECONDS)
        ticks += 1
        if ticks % 10 == 0 and out.exists():
            counted = sum(counts[0] for key, counts in program.read(out).items() if key != key_of(TICK_FLOW))
            if counted >= sent:
                return
            if counted != before:
                before, last = counted, time.monotonic()


# -- the programs -------------------------------------------------------------------------------
def _streamspec(out: Path) -> Sequence[str]:
    configuration = str(SCRIPTS / "streamspec.yaml")
    settings = (f"sinks.out.path={out}", f"engine.workers={max(1, len(receiver_cores()) - 1)}")
    words = [word for setting in settings for word in ("--set", setting)]
    return [sys.executable, "-m", "streamspec", "run", configuration, "--json", *words]


def _streamspec_drops(output: str) -> int:
    for line in reversed(output.splitlines()):
        if line.startswith('{"elapsed_seconds"'):
            summary: dict[str, Any] = json.loads(line)
            return int(summary["sources"].get("wire", {}).get("kernel_drops", 0))
    return 0


def _nfstream(out: Path) -> Sequence[str]:
    return [peers.python(), str(SCRIPTS / "nfstream_live.py"), "wire0", str(out), str(RING_BYTES)]


def _suricata(out: Path) -> Sequence[str]:
    program = peers.program("suricata", "suricata, from backports on Debian 12")
    options = ("-c", str(SCRIPTS / "suricata.yaml"), "-k", "none", "-S", "/dev/null", "--runmode", "workers")
    threads = f"af-packet.0.threads={len(receiver_cores())}"
    places = ("-l", str(out.parent), "--set", f"outputs.0.eve-log.filename={out}")
    return [program, *options, *places, "--set", threads, "--af-packet=wire0"]


def _tcpdump(out: Path) -> Sequence[str]:
    program = peers.program("tcpdump", "tcpdump")
    return [program, "-i", "wire0", "-n", "-B", str(RING_BYTES >> 10), "-s", "0", "-Z", "root", "-w", str(out)]


def _packets_of_file(out: Path) -> Table:
    """All frames are of one length, so the size of the file says how many there are of each flow."""
    content = np.fromfile(out, dtype=np.uint8, offset=24)
    rows = content[: len(content) // (16 + FRAME_BYTES) * (16 + FRAME_BYTES)].reshape(-1, 16 + FRAME_BYTES)
    flows = rows[:, 16 + 28].astype(np.int64) * 256 + rows[:, 16 + 29]
    table: Table = {}
    for flow, packets in enumerate(np.bincount(flows, minlength=1).tolist()):
        if packets:
            flow_tables.add(table, key_of(flow), packets, 0)
    return table


def _first_number(pattern: str) -> Callable[[str], int]:
    def drops(output: str) -> int:
        found = re.search(pattern, output)
        return int(found[1]) if found else 0

    return drops


def build(quick: bool = False) -> Job:
    """The job."""
    seconds, precision, growth = (0.3, 4.0, 4.0) if quick else (1.0, 1.2, 2.0)
    tables = flow_tables
    programs = [
        Program("streamspec", _streamspec, own_version, tables.from_streamspec, _streamspec_drops),
        Program(
            "tcpdump -w (floor)",
            _tcpdump,
            lambda: peers.debian_version("tcpdump"),
            _packets_of_file,
            _first_number(r"(\d+) packets dropped by kernel"),
            end=SIGINT,
        ),
        Program(
            "Suricata",
            _suricata,
            lambda: peers.debian_version("suricata"),
            tables.from_suricata,
            _first_number(r"drops: (\d+)"),
            ready="Engine started",
        ),
        Program(
            "nfstream",
            _nfstream,
            lambda: peers.pinned_version("nfstream"),
            tables.from_rows,
            lambda output: 0,
            end=SIGINT,
            waits=True,
        ),
    ]
    settings = {"frame_bytes": FRAME_BYTES, "flows": FLOWS, "seconds": seconds, "precision": precision}
    return Job("D", [Capture(one, seconds, precision, growth).contender() for one in programs], settings, quick=quick)
