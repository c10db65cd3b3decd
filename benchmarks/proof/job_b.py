"""Job B: syslog over UDP on loopback, each message parsed and written to a file as a JSON line.

The contender has all cores but the last, on which this process sends distinct messages of 200 bytes by ``sendmmsg`` at
a paced rate. What is looked for is the highest rate at which at most a thousandth is lost, by bisection, confirmed
three times of three. Lines are compared byte by byte with what they must be; the sequence number tells what was lost,
doubled, or written out of order. All have a receive buffer of 16 MiB: ``net.core.rmem_max`` is raised for that time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._outgoing import Outgoing
from benchmarks.proof import peers
from benchmarks.proof.harness import ROOT, Contender, Job, Measures, NotRun, Wrong, own_version
from benchmarks.proof.highest_rate import CONFIRMATIONS, highest_rate
from benchmarks.proof.job_b_kernels import stamp
from benchmarks.proof.pace import Pace
from benchmarks.proof.processes import NICENESS, Tree

SCRIPTS = Path(__file__).with_name("job_b_peers")
MESSAGE_BYTES = 200
BATCH = 64
RECEIVE_BUFFER_BYTES = 16 << 20
TOLERATED_LOSS = 0.001
FIRST_RATE, MOST_RATE = 50_000.0, 2_000_000.0
SENDER_SHORTFALL = 0.9
"""A rate that the sender itself misses by more than that counts as not borne, and is told apart."""
START_SECONDS, QUIET_SECONDS, DRAIN_SECONDS = 60.0, 1.6, 15.0
"""rsyslog writes what is left after a second."""
HEAD = b"<134>1 2026-01-01T00:00:00.000000+00:00 sensor-1 probe 4711 ID47 - "
LINE_HEAD = b'{"pri":"134","host":"sensor-1","app":"probe","pid":"4711","msg":"'
TEXT = b"seq=0000000000 "
BODY = TEXT + b"x" * (MESSAGE_BYTES - len(HEAD) - len(TEXT))
LINE = LINE_HEAD + BODY + b'"}\n'
DIGITS = 10
RMEM_MAX = Path("/proc/sys/net/core/rmem_max")


class Sender:
    """Sends numbered messages from a socket of its own."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._rows = np.tile(np.frombuffer(HEAD + BODY, dtype=np.uint8), (BATCH, 1))
        self._outgoing = Outgoing(self._rows, np.arange(BATCH) * MESSAGE_BYTES, MESSAGE_BYTES)
        self._column = len(HEAD) + TEXT.index(b"0")
        self.number = 0

    def send(self, rate: float, seconds: float) -> tuple[int, float]:
        """At this rate for so long, or until twice the time is over: messages sent, and the rate they had."""
        pace, sent = Pace(rate, seconds), 0
        while sent < pace.total and (due := pace.due(sent)) >= 0:
            if sent < due:
                sent += self._send_batch(min(BATCH, pace.total - sent))
        return sent, pace.reached(sent)

    def send_one(self) -> None:
        """A single message."""
        self._send_batch(1)

    def _send_batch(self, count: int) -> int:
        stamp(self._rows[:count], self._column, self.number)
        sent = self._outgoing.send(self._socket.fileno(), 0, count)
        self.number += sent
        return sent

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Lines:
    """The file that a contender writes, read piece by piece.

    Raises:
        Wrong: a line is not what it must be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._pattern = np.frombuffer(LINE, dtype=np.uint8)
        at = LINE.index(TEXT) + TEXT.index(b"0")
        self._digits = slice(at, at + DIGITS)

    def written(self) -> int:
        """Whole lines that are there and were not taken."""
        size = self._path.stat().st_size if self._path.exists() else 0
        return (size - self._read) // len(LINE)

    def take(self) -> npt.NDArray[np.int64]:
        """The sequence numbers of those."""
        count = self.written()
        if not count:
            return np.zeros(0, dtype=np.int64)
        rows = np.fromfile(self._path, dtype=np.uint8, count=count * len(LINE), offset=self._read)
        rows = rows.reshape(count, len(LINE))
        self._read += rows.size
        for part in (slice(0, self._digits.start), slice(self._digits.stop, None)):
            if not (rows[:, part] == self._pattern[part]).all():
                bad = int(np.argmax((rows[:, part] != self._pattern[part]).any(axis=1)))
                raise Wrong(f"a line is {rows[bad].tobytes()!r}")
        digits = rows[:, self._digits].astype(np.int64) - 48
        return digits @ (10 ** np.arange(DIGITS - 1, -1, -1))


def wait_for_lines(lines: Lines, wanted: int) -> None:
    """Until so many are there, or nothing comes any more."""
    began = last = time.monotonic()
    before = -1
    while (count := lines.written()) < wanted:
        now = time.monotonic()
        if count != before:
            before, last = count, now
        elif now - last > QUIET_SECONDS or now - began > DRAIN_SECONDS:
            return
        time.sleep(0.02)


@dataclass(frozen=True)
class Program:
    """How a receiver is started: from port, file and folder."""

    name: str
    command: Callable[[int, Path, Path], Sequence[str]]
    version: Callable[[], str]
    environment: Callable[[], dict[str, str]] = dict


class Session:
    """A receiver that runs, and what was sent to it."""

    def __init__(self, tree: Tree, lines: Lines, sender: Sender, seconds: float) -> None:
        self._tree, self._lines, self._sender, self._seconds = tree, lines, sender, seconds
        self.confirmed: list[Measures] = []
        self.sender_limited = False

    def first_result_seconds(self) -> float:
        """From the start of the program until it has written a line. Raises NotRun when it never does."""
        while not self._lines.written():
            if not self._tree.running:
                raise NotRun(f"ended: {self._tree.output.strip().splitlines()[-1:]}")
            if time.monotonic() - self._tree.started > START_SECONDS:
                raise NotRun(f"nothing was written within {START_SECONDS:.0f} s: {self._tree.output[-200:]}")
            with contextlib.suppress(ConnectionRefusedError):
                self._sender.send_one()
            time.sleep(0.01)
        passed = time.monotonic() - self._tree.started
        wait_for_lines(self._lines, 1 << 60)
        self._lines.take()
        return passed

    def bears(self, rate: float) -> bool:
        """One trial."""
        cpu = self._tree.cpu_seconds()
        first = self._sender.number
        sent, sent_rate = self._sender.send(rate, self._seconds)
        wait_for_lines(self._lines, sent)
        numbers = self._lines.take()
        numbers = numbers[numbers >= first]  # a warm-up's stragglers
        distinct = len(np.unique(numbers))
        self._tree.sample()
        self.sender_limited = sent_rate < SENDER_SHORTFALL * rate
        borne = distinct >= sent * (1 - TOLERATED_LOSS) and not self.sender_limited
        one = {
            "records_per_second": sent_rate,
            "cpu_seconds": self._tree.cpu_seconds() - cpu,
            "sent": sent,
            "lost": sent - distinct,
            "duplicated": len(numbers) - distinct,
            "out_of_order": int((np.diff(numbers) < 0).sum()),
        }
        self.confirmed = [*self.confirmed, one][-CONFIRMATIONS:] if borne else []
        return borne


class Reception:
    """One contender of the job."""

    def __init__(self, program: Program, seconds: float, precision: float) -> None:
        self._program, self._seconds, self._precision = program, seconds, precision
        self._found = 0.0

    def contender(self) -> Contender:
        """For the harness."""
        settings = {"receive_buffer_bytes": RECEIVE_BUFFER_BYTES, "cores": len(receiver_cores())}
        program = self._program
        return Contender(program.name, self.run, program.version, prepare=self._prepare, settings=settings)

    def _prepare(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            self._program.command(1, Path(name) / "out", Path(name))

    def run(self, repeat: int) -> Measures:
        """Start it, search the rate from what an earlier repeat found."""
        with memory_folder() as folder, self._session(folder) as (session, tree):
            first = session.first_result_seconds()
            start, growth = (self._found * 0.8, 1.25) if self._found else (FIRST_RATE, 2.0)
            rate = highest_rate(session.bears, start, MOST_RATE, growth=growth, precision=self._precision)
            limited = session.sender_limited
            peak = tree.peak_memory_bytes
        if not rate:
            raise NotRun("no rate was borne three times of three")
        self._found = rate
        confirmed = session.confirmed
        reached = min(one["records_per_second"] for one in confirmed)
        octets = sum(one["sent"] for one in confirmed) * MESSAGE_BYTES
        return {
            "records_per_second": reached,
            "mib_per_second": reached * MESSAGE_BYTES / 2**20,
            "cpu_seconds_per_gib": sum(one["cpu_seconds"] for one in confirmed) / (octets / 2**30),
            "peak_memory_bytes": peak,
            "time_to_first_result_seconds": first,
            "sender_limited": limited,
            **{name: sum(one[name] for one in confirmed) for name in ("lost", "duplicated", "out_of_order")},
        }

    @contextlib.contextmanager
    def _session(self, folder: Path) -> Iterator[tuple[Session, Tree]]:
        port = free_port()
        command = self._program.command(port, folder / "out", folder)
        environment = self._program.environment()
        log = folder / "log"
        more: dict[str, Any] = {"environment": environment, "sampling": False, "favoured": True, "folder": ROOT}
        sender = Sender(port)
        try:
            with large_receive_buffers(), Tree(command, receiver_cores(), log, **more) as tree, own_core():
                yield Session(tree, Lines(folder / "out"), sender, self._seconds), tree
        finally:
            sender.close()


# -- the machine --------------------------------------------------------------------------------
ALLOWED = sorted(os.sched_getaffinity(0))


def receiver_cores() -> list[int]:
    """All but the last."""
    return ALLOWED[:-1] or ALLOWED


@contextlib.contextmanager
def own_core() -> Iterator[None]:
    """This process on the last core meanwhile, before all else on it where permitted."""
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    os.sched_setaffinity(0, ALLOWED[-1:])
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALLOWED)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, niceness)


@contextlib.contextmanager
def large_receive_buffers() -> Iterator[None]:
    """``rmem_max`` as high as the buffers asked for, where permitted; put back."""
    before = RMEM_MAX.read_text()
    with contextlib.suppress(PermissionError):
        RMEM_MAX.write_text(str(max(int(before), RECEIVE_BUFFER_BYTES)))
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            RMEM_MAX.write_text(before)


@contextlib.contextmanager
def memory_folder() -> Iterator[Path]:
    """Of a file system in memory, where there is one."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


def free_port() -> int:
    """A UDP port that nothing has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


# -- the programs -------------------------------------------------------------------------------
def _streamspec(port: int, out: Path, folder: Path) -> Sequence[str]:
    configuration = str(SCRIPTS / "streamspec.yaml")
    settings = (f"sources.syslog.bind=127.0.0.1:{port}", f"sinks.out.path={out}", f"engine.workers={_workers()}")
    return [sys.executable, "-m", "streamspec", "run", configuration, *(w for s in settings for w in ("--set", s))]


def _workers() -> int:
    return max(1, len(receiver_cores()) - 1)


def _uvloop(port: int, out: Path, folder: Path) -> Sequence[str]:
    script = str(SCRIPTS / "uvloop_protocol.py")
    return [peers.python(), script, str(port), str(out), str(RECEIVE_BUFFER_BYTES)]


def _rsyslog(port: int, out: Path, folder: Path) -> Sequence[str]:
    program = peers.program("rsyslogd", "rsyslog")
    return [program, "-n", "-f", _configured("rsyslog.conf", port, out, folder), "-i", str(folder / "pid")]


def _syslog_ng(port: int, out: Path, folder: Path) -> Sequence[str]:
    program = peers.program("syslog-ng", "syslog-ng-core; beside rsyslog: dpkg -x to .cache/bench/peers/syslog-ng")
    configuration = _configured("syslog-ng.conf", port, out, folder)
    state = ("-R", str(folder / "persist"), "-c", str(folder / "ctl"), "-p", str(folder / "pid"))
    return [program, "-F", "--no-caps", "-f", configuration, *state, *_unpacked_modules(Path(program))]


def _unpacked_root(program: Path) -> Path | None:
    root = program.parents[2]
    return root if root.is_relative_to(peers.PEERS) else None


def _unpacked_modules(program: Path) -> Sequence[str]:
    root = _unpacked_root(program)
    return [] if root is None else [f"--module-path={next(root.glob('usr/lib/syslog-ng/*.*/'))}"]


def _syslog_ng_environment() -> dict[str, str]:
    root = _unpacked_root(Path(peers.program("syslog-ng", "syslog-ng-core")))
    return {} if root is None else {"LD_LIBRARY_PATH": str(root / "usr/lib/syslog-ng")}


def _configured(name: str, port: int, out: Path, folder: Path) -> str:
    """The peer's configuration with its places filled in."""
    text = (SCRIPTS / name).read_text(encoding="utf-8")
    places: dict[str, Any] = {
        "PORT": port,
        "OUT": out,
        "FOLDER": folder,
        "BUFFER": RECEIVE_BUFFER_BYTES,
        "THREADS": len(receiver_cores()),
    }
    for place, value in places.items():
        text = text.replace(f"@{place}@", str(value))
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def _syslog_ng_version() -> str:
    program = peers.program("syslog-ng", "syslog-ng-core")
    environment = [f"{name}={value}" for name, value in _syslog_ng_environment().items()]
    return peers.first_line("env", *environment, program, "--version")


def build(quick: bool = False) -> Job:
    """The job."""
    seconds, precision = (0.4, 1.5) if quick else (1.5, 1.06)
    programs = [
        Program("streamspec", _streamspec, own_version),
        Program("rsyslog (imudp)", _rsyslog, lambda: peers.debian_version("rsyslog")),
        Program("syslog-ng", _syslog_ng, _syslog_ng_version, _syslog_ng_environment),
        Program("asyncio protocol on uvloop", _uvloop, lambda: peers.pinned_version("uvloop")),
    ]
    settings = {"message_bytes": MESSAGE_BYTES, "seconds": seconds, "precision": precision, "loss": TOLERATED_LOSS}
    return Job("B", [Reception(one, seconds, precision).contender() for one in programs], settings, quick=quick)
