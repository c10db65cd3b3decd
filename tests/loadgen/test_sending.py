"""Real sockets: what was sent arrives, is found again, and is on time by a clock that the test owns."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dpkt
import numpy as np
import pytest

from loadgen.audit import read_audit
from loadgen.driver import Driver
from loadgen.errors import Unreachable, UsageError
from loadgen.load import Delivery, run_load
from loadgen.pool import make_pool
from loadgen.receive import Receiver
from loadgen.records import read_records
from loadgen.replay import record, recording_blocks, replay
from loadgen.scenario import Rate, load_scenario
from loadgen.schedule import Block
from loadgen.target import parse_target
from loadgen.verify import verify

pytestmark = pytest.mark.slow


@contextmanager
def _receiving(url: str, out: Path) -> Iterator[str]:
    """A receiver in a thread; gives the URL to send to."""
    receiver = Receiver(parse_target(url, listening=True), out)
    stop = threading.Event()
    thread = threading.Thread(target=receiver.run, args=(stop.is_set,))
    thread.start()
    try:
        yield url.replace(":0", f":{receiver.address[1]}")
    finally:
        stop.set()
        thread.join()
        receiver.close()


@pytest.mark.parametrize(
    "url", ["udp://127.0.0.1:0", "tcp://127.0.0.1:0?framing=length", "tcp://127.0.0.1:0?framing=newline"]
)
def test_what_was_sent_is_found_again(tmp_path: Path, url: str) -> None:
    out, audit = tmp_path / "out", tmp_path / "audit"
    with _receiving(url, out) as to:
        report = run_load("mixed", to, seconds=0.5, rate=Rate(messages_per_second=2000), keys=4, audit=audit)
    assert report.messages == pytest.approx(1000, rel=0.2)
    assert report.keys == 4
    assert sum(report.kinds.values()) == report.messages
    assert report.lateness_seconds is not None
    verdict = verify(read_audit(audit), [out])
    assert verdict.passes(), verdict.text()
    assert verdict.found == report.messages
    assert verdict.latency_seconds is not None


class _Recorder:
    """A sender that keeps what it was given, on a clock that only sleeping moves."""

    waiting = False

    def __init__(self, slow_ns: int = 0) -> None:
        self.now_ns = 50
        self.sent: list[tuple[int, int]] = []
        self._slow_ns = slow_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns

    def sleep_until(self, monotonic_ns: int) -> None:
        self.now_ns = max(self.now_ns, monotonic_ns)

    def begin(self, start_ns: int, epoch_ns: int) -> None:
        self.start_ns = start_ns

    def warm(self, block: Block) -> None:
        """Nothing to load."""

    def take(self, block: Block, first: int, last: int) -> int:
        for row in range(first, last):
            self.now_ns += self._slow_ns
            self.sent.append((int(block.times_ns[row]), self.now_ns - self.start_ns))
        return last - first

    def flush(self) -> None:
        """Nothing waits."""

    def wait(self, seconds: float) -> None:
        """Nothing waits."""


def _block(times_ns: list[int]) -> Block:
    pool = make_pool([b"x"], [0], ("x",))
    zeros = np.zeros(len(times_ns), dtype=np.int32)
    return Block(np.array(times_ns, dtype=np.int64), zeros, zeros, pool, "phase")


def test_messages_go_out_at_their_times() -> None:
    recorder = _Recorder()
    times = [i * 1_000_000 for i in range(100)]
    Driver(iter([_block(times[:60]), _block(times[60:])]), recorder, recorder, stopped=lambda: False).run()
    assert [t for t, _ in recorder.sent] == times
    assert all(0 <= at - due < 200_000 for due, at in recorder.sent)


def test_a_sender_that_falls_behind_sends_at_once_and_skips_nothing() -> None:
    recorder = _Recorder(slow_ns=3_000_000)
    times = [i * 1_000_000 for i in range(100)]
    Driver(iter([_block(times)]), recorder, recorder, stopped=lambda: False).run()
    assert [t for t, _ in recorder.sent] == times
    assert recorder.sent[-1][1] == pytest.approx(300_000_000, rel=0.01)


def test_a_target_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="cannot connect"):
        run_load("mixed", "tcp://127.0.0.1:1", seconds=0.1)
    for wrong in ("http://x", "udp://127.0.0.1", "tcp://127.0.0.1:5?framing=odd", "udp://127.0.0.1:5?framing=length"):
        with pytest.raises(UsageError):
            parse_target(wrong)


def _capture(path: Path) -> None:
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for number, seconds in enumerate([10.0, 10.5, 9.0, 500.0]):
            udp = dpkt.udp.UDP(sport=1000 + number % 2, dport=53, data=b"payload %d" % number)
            udp.ulen = len(udp)
            ip = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=17, data=udp)
            ip.len = len(ip)
            writer.writepkt(bytes(dpkt.ethernet.Ethernet(data=ip)), seconds)
        writer.writepkt(b"\0" * 12 + b"\x08\x06" + b"arp", 501.0)


def test_a_replay_clamps_gaps_and_backward_times_and_sends_payloads(tmp_path: Path) -> None:
    _capture(tmp_path / "a.pcap")
    options = {"max_gap_seconds": 1.0, "keys": 4, "largest_bytes": 1000}
    recording = record([tmp_path / "a.pcap"], speed=2.0, whole=False, **options)
    assert recording.times_ns == [0, 250_000_000, 250_000_000, 750_000_000]
    assert recording.bodies == [b"payload %d" % i for i in range(4)]
    assert recording.keys[0] == recording.keys[2]
    assert recording.skipped == {"no_payload": 1}
    assert len(record([tmp_path / "a.pcap"], speed=1.0, whole=True, **options).bodies) == 5
    assert sum(len(block) for block in recording_blocks(recording, lines=True)) == 4
    with _receiving("udp://127.0.0.1:0", tmp_path / "out") as to:
        report = replay([tmp_path / "a.pcap"], Delivery(target=parse_target(to), paced=False))
    assert report.messages == 4
    assert sorted(r.content for r in read_records(tmp_path / "out")) == [b"payload %d" % i for i in range(4)]


def _loadgen(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadgen", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_exit_codes(tmp_path: Path) -> None:
    assert _loadgen("send", "--to", "tcp://127.0.0.1:1", "--seconds", "0.1").returncode == 69
    assert _loadgen("send", "no_such", "--to", "udp://127.0.0.1:9").returncode == 2
    (tmp_path / "bad.yaml").write_text("name: x\nphases: 5\n")
    bad = _loadgen("send", str(tmp_path / "bad.yaml"), "--to", "udp://127.0.0.1:9")
    assert bad.returncode == 78
    assert "bad.yaml:2:" in bad.stderr
    assert "mixed" in _loadgen("scenarios").stdout


def test_an_interrupt_ends_a_run_with_its_report(tmp_path: Path) -> None:
    with _receiving("udp://127.0.0.1:0", tmp_path / "out") as to:
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "send",
            "mixed",
            "--to",
            to,
            "--seconds",
            "30",
            "--json",
            "--progress",
        ]
        audit = ["--audit", str(tmp_path / "audit"), "--rate", "500"]
        child = subprocess.Popen([*command, *audit], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stderr.readline())["messages"] > 0
        child.send_signal(signal.SIGINT)
        stdout, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    report = json.loads(stdout)
    assert report["stopped"]
    verdict = verify(read_audit(tmp_path / "audit"), [tmp_path / "out"])
    assert verdict.passes()
    assert verdict.found == report["messages"]


def test_an_audit_changes_neither_the_number_of_messages_nor_much_of_their_sizes(tmp_path: Path) -> None:
    scenario = load_scenario("burst").adapted(seconds=0.2)
    with _receiving("udp://127.0.0.1:0", tmp_path / "a") as to:
        plain = run_load(scenario, to)
    with _receiving("udp://127.0.0.1:0", tmp_path / "b") as to:
        marked = run_load(scenario, to, audit=tmp_path / "audit")
    assert plain.messages == marked.messages
    assert marked.bytes == pytest.approx(plain.bytes, rel=0.1)


def test_an_unpaced_run_lasts_as_long_as_its_phases_and_is_never_late(tmp_path: Path) -> None:
    with _receiving("udp://127.0.0.1:0", tmp_path / "out") as to:
        report = run_load("shift", to, seconds=0.3, paced=False)
    assert report.messages > 1000
    assert report.seconds == pytest.approx(0.3, abs=0.1)
    assert report.lateness_seconds is None
    assert {"tls", "http"} <= set(report.kinds)  # every phase had its turn
