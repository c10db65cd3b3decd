"""Job C: a capture to its flow table, on one core.

All programs are pinned to the same core and write their table to a file. No program's start counts: a rate is packets
by the wall time beyond that of the same command on a capture of one packet; streamspec, which has much more start than
work, tells itself how long it took from its start to its last record, and reads the capture many times over, as
otherwise that is a fifth of a second. CPU time is likewise beyond that of the start. ``whole_seconds`` is the command
with its start on the million packets once. ``tcpdump`` only copies packets: a floor.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flow_kernels import CAPTURES
from benchmarks.flows import streamspec_command, write_capture
from benchmarks.proof import flow_tables, peers
from benchmarks.proof.flow_tables import Table, Tolerance
from benchmarks.proof.harness import CACHE, ROOT, Contender, Job, Measures, NotRun, Wrong, own_version
from benchmarks.proof.processes import Ran, run_to_end

SCRIPTS = Path(__file__).with_name("job_c_peers")
GIB = float(1 << 30)
PACKETS = 1_000_000
"""At least so many packets; whole rounds through all captures are written."""
REPEAT = 40
EXACT = Tolerance()
NDPI = Tolerance(0.995, 0.995, frames=True, reason="bytes are of frames; prints some IPv6 addresses wrongly")
SURICATA = Tolerance(frames=True, reason="bytes are of frames")
NFSTREAM = Tolerance(0.99, 0.99, reason="opens CAPWAP, whose flows are then those inside")
TSHARK = Tolerance(octets=0.0, reason="prints bytes in three digits, which are not compared")


Command = Callable[[Path, Path, int], Sequence[str]]
"""From capture, output file and the times that the capture is to be read."""


@dataclass(frozen=True)
class Tool:
    """How a program makes a flow table of a capture.

    Attributes:
        read: its table from the output file.
        packets: of the capture that it is given, None: all. Slow programs get fewer.
        repeat: times that it reads the capture in one run.
        printed: its table is what it prints.
        seconds: how long it says it took without its start.
    """

    name: str
    command: Command
    read: Callable[[Path], Table]
    version: Callable[[], str]
    tolerance: Tolerance = EXACT
    packets: int | None = None
    repeat: int = 1
    printed: bool = False
    seconds: Callable[[Ran], float] | None = None


class Captures:
    """Files that all programs read: all packets once, a million of them, and a single one."""

    def __init__(self, quick: bool) -> None:
        self.folder = CACHE / "captures"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.once = self.folder / "once.pcap"
        self.once_packets = _written(self.once, 1)
        self.large = self.once if quick else self.folder / "large.pcap"
        self.packets = self.once_packets if quick else _written(self.large, PACKETS)
        self.single = self.folder / "single.pcap"
        self._cut(self.single, 1)
        self._references: dict[Path, Table] = {}

    def first(self, packets: int | None, path: Path) -> tuple[Path, int]:
        """A capture or its first packets, and how many they are."""
        whole = self.packets if path == self.large else self.once_packets
        if packets is None or packets >= whole:
            return path, whole
        cut = self.folder / f"first-{packets}.pcap"
        self._cut(cut, packets)
        return cut, packets

    def reference(self, path: Path) -> Table:
        """Of one of these files."""
        if path not in self._references:
            self._references[path] = flow_tables.reference(path)
        return self._references[path]

    def _cut(self, path: Path, packets: int) -> None:
        """The first IPv4 packet and those behind it."""
        content = self.once.read_bytes()
        first = at = 24
        left = packets
        while left:
            end = at + 16 + int.from_bytes(content[at + 8 : at + 12], "little")
            if left == packets and content[at + 28 : at + 30] != b"\x08\x00":
                first = end
            else:
                left -= 1
            at = end
        path.write_bytes(content[:24] + content[first:at])


def _written(path: Path, packets: int) -> int:
    """Packets of the file, which is made when it is not there or of other captures."""
    stamp = path.with_suffix(".made-of")
    source = f"{CAPTURES if CAPTURES.is_dir() else 'generated'} {packets}\n"
    if path.is_file() and stamp.is_file() and stamp.read_text().startswith(source):
        return int(stamp.read_text().splitlines()[1])
    written = write_capture(path, packets)
    stamp.write_text(f"{source}{written}")
    return written


class Runs:
    """Runs one tool on the job."""

    def __init__(self, tool: Tool, captures: Captures, core: int) -> None:
        self._tool, self._captures, self._core = tool, captures, core

    def contender(self) -> Contender:
        """For the harness."""
        tool = self._tool
        settings = {"command": [word.replace(str(ROOT), ".") for word in self._words()], "rounds": tool.repeat}
        return Contender(tool.name, self.run, tool.version, prepare=self._prepare, check=self.check, settings=settings)

    def _words(self) -> Sequence[str]:
        try:
            return self._tool.command(Path("CAPTURE"), Path("OUT"), self._tool.repeat)
        except NotRun:
            return ()

    def _prepare(self) -> None:
        self._tool.command(self._captures.single, Path("OUT"), 1)

    def check(self) -> Measures:
        """Compare its table with the reference's."""
        capture, _ = self._captures.first(self._tool.packets, self._captures.once)
        with _folder() as folder:
            self._go(capture, folder, repeat=1)
            found = self._tool.read(folder / "out")
        tolerance = self._tool.tolerance
        wanted = self._captures.reference(capture)
        return {**flow_tables.compare(found, wanted, tolerance), "tolerated": tolerance.reason}

    def run(self, repeat: int) -> Measures:
        """Start, whole command, and rate."""
        tool = self._tool
        capture, packets = self._captures.first(tool.packets, self._captures.large)
        with _folder() as folder:
            start = self._go(self._captures.single, folder, repeat=1)
            once = self._go(capture, folder, repeat=1)
            whole = once if tool.repeat == 1 else self._go(capture, folder, repeat=tool.repeat)
        packets_read = packets * tool.repeat
        octets = capture.stat().st_size * tool.repeat
        seconds = tool.seconds(whole) if tool.seconds else max(whole.wall_seconds - start.wall_seconds, 1e-3)
        return {
            "packets_per_second": packets_read / seconds,
            "mib_per_second": octets / 2**20 / seconds,
            "cpu_seconds_per_gib": max(whole.cpu_seconds - start.cpu_seconds, 0.0) / (octets / GIB),
            "peak_memory_bytes": whole.peak_memory_bytes or None,
            "time_to_first_result_seconds": start.wall_seconds,
            "whole_seconds": once.wall_seconds * self._captures.packets / packets,
            "packets": packets_read,
        }

    def _go(self, capture: Path, folder: Path, repeat: int) -> Ran:
        out = folder / "out"
        out.unlink(missing_ok=True)
        ran = run_to_end(self._tool.command(capture, out, repeat), [self._core], folder / "log", folder=ROOT)
        if self._tool.printed:
            (folder / "log").rename(out)
        if not out.exists():
            raise Wrong("it wrote no table")
        return ran


@contextmanager
def _folder() -> Iterator[Path]:
    """In memory where there is a file system for it, so that no program waits for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        yield Path(name)


# -- the programs ---------------------------------------------------------------------------------
def _streamspec(capture: Path, out: Path, repeat: int) -> Sequence[str]:
    return streamspec_command(capture, out, repeat)


def _elapsed_seconds(ran: Ran) -> float:
    summary = next(line for line in reversed(ran.output.splitlines()) if line.startswith('{"elapsed_seconds"'))
    return float(json.loads(summary)["elapsed_seconds"])


def _script(name: str, *more: str) -> Command:
    def command(capture: Path, out: Path, repeat: int) -> Sequence[str]:
        return [peers.python(), str(SCRIPTS / f"{name}.py"), str(capture), str(out), *more]

    return command


def _tshark(capture: Path, out: Path, repeat: int) -> Sequence[str]:
    options = ("-o", "ip.defragment:FALSE", "-o", "tcp.desegment_tcp_streams:FALSE")
    return [peers.program("tshark", "tshark"), "-n", "-q", *options, "-r", str(capture), *TSHARK_TABLES]


TSHARK_TABLES = ("-z", "conv,tcp", "-z", "conv,udp")


def _pmacct(capture: Path, out: Path, repeat: int) -> Sequence[str]:
    """Its queue between processes as large as its FAQ advises for high rates."""
    found = peers.program("pmacctd", "pmacct")
    configuration = out.with_name("pmacctd.conf")
    if out.is_absolute():
        configuration.write_text(
            f"pcap_savefile: {capture}\naggregate: src_host,dst_host,src_port,dst_port,proto\nplugins: print\n"
            f"print_output: csv\nprint_output_file: {out}\nprint_refresh_time: 86400\nprint_cache_entries: 65537\n"
            "plugin_pipe_size: 67108864\nplugin_buffer_size: 65536\ndaemonize: false\n"
        )
    return [found, "-f", str(configuration)]


def _ndpi(capture: Path, out: Path, repeat: int) -> Sequence[str]:
    """As little dissection as it allows: a single packet of each flow."""
    return [
        peers.program("ndpiReader", "libndpi-bin"),
        "-i",
        str(capture),
        "-q",
        "-v",
        "2",
        "-T",
        "1",
        "-U",
        "1",
        "-C",
        str(out),
    ]


def _suricata(capture: Path, out: Path, repeat: int) -> Sequence[str]:
    found = peers.program("suricata", "suricata, from backports on Debian 12")
    options = ("-c", str(SCRIPTS / "suricata.yaml"), "-k", "none", "--runmode", "single", "-S", "/dev/null")
    return [found, *options, "-l", str(out.parent), "--set", f"outputs.0.eve-log.filename={out}", "-r", str(capture)]


def _tcpdump(capture: Path, out: Path, repeat: int) -> Sequence[str]:
    return [peers.program("tcpdump", "tcpdump"), "-r", str(capture), "-w", str(out)]


def _tools(quick: bool) -> list[Tool]:
    slow = 5_000 if quick else 20_000
    tables = flow_tables
    return [
        Tool("streamspec", _streamspec, tables.from_streamspec, own_version, repeat=REPEAT, seconds=_elapsed_seconds),
        Tool("tcpdump -w (copy)", _tcpdump, tables.reference, _debian("tcpdump")),
        Tool("ndpiReader", _ndpi, tables.from_ndpi, _debian("libndpi-bin"), NDPI),
        Tool("pmacctd", _pmacct, tables.from_pmacct, _debian("pmacct")),
        Tool("Suricata", _suricata, tables.from_suricata, _debian("suricata"), SURICATA),
        Tool("nfstream", _script("nfstream_flows"), tables.from_rows, _pinned("nfstream"), NFSTREAM),
        Tool("tshark", _tshark, tables.from_tshark_file, _debian("tshark"), TSHARK, printed=True),
        Tool("dpkt", _script("dpkt_flows"), tables.from_rows, _pinned("dpkt"), packets=10 * slow),
        Tool("scapy", _script("scapy_flows"), tables.from_rows, _pinned("scapy"), packets=slow),
    ]


def _debian(package: str) -> Callable[[], str]:
    return lambda: peers.debian_version(package)


def _pinned(name: str) -> Callable[[], str]:
    return lambda: peers.pinned_version(name)


def build(quick: bool = False) -> Job:
    """The job, on the first core that may be used."""
    core = min(os.sched_getaffinity(0))
    captures = Captures(quick)
    contenders = [Runs(tool, captures, core).contender() for tool in _tools(quick)]
    settings = {"packets": captures.packets, "captures": CAPTURES.is_dir(), "core": "one"}
    return Job("C", contenders, settings, quick=quick)
