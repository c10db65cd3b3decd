"""TCP under adversity: peers that do not read, that go away, that speak TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from loadgen.audit import read_audit
from loadgen.batch import Marking
from loadgen.clock import SystemClock
from loadgen.errors import Unreachable, UsageError
from loadgen.load import run_load
from loadgen.marker import MARKER_BYTES, find_markers
from loadgen.meter import Meter
from loadgen.pool import make_pool
from loadgen.scenario import Rate
from loadgen.schedule import Block
from loadgen.target import parse_target
from loadgen.tcp import PENDING_BYTES, TcpSender
from streamspec.testing.certificates import Authority

ROWS = 200
BODY = bytes(range(32, 112)) * 800


@contextmanager
def _listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that calls ``serve`` for one connection in a thread; gives its URL."""

    def accept() -> None:
        with listener:
            peer, _ = listener.accept()
        with peer:
            serve(peer)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{port}?framing=length"
    finally:
        thread.join(10)
        assert not thread.is_alive()


def _read_all(peer: socket.socket) -> bytes:
    parts = []
    while part := peer.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def _block(rows: int) -> Block:
    zeros = np.zeros(rows, dtype=np.int32)
    return Block(np.zeros(rows, dtype=np.int64), zeros, zeros, make_pool([BODY], [0], ("x",)), "phase")


@contextmanager
def _sender(url: str, meter: Meter) -> Iterator[TcpSender]:
    marking = Marking(1, np.zeros(1, dtype=np.int64))
    sender = TcpSender(parse_target(url), 1, meter, SystemClock(), marking=marking)
    sender.begin(0, 1000)
    try:
        yield sender
    finally:
        sender.close()


@pytest.mark.slow
def test_a_peer_that_does_not_read_fills_the_buffer_and_then_stops_the_sender() -> None:
    may_read, received = threading.Event(), []

    def serve(peer: socket.socket) -> None:
        may_read.wait(10)
        received.append(_read_all(peer))

    meter = Meter()
    block = _block(ROWS)
    with _listening(serve) as url, _sender(url, meter) as sender:
        taken = 0
        while more := sender.take(block, taken, ROWS):
            taken += more
        assert 0 < taken < ROWS
        assert sender.waiting
        assert meter.blocked >= 1
        frame = 4 + MARKER_BYTES + len(BODY)
        assert meter.messages * frame < taken * frame <= PENDING_BYTES + meter.messages * frame + 2 * frame
        may_read.set()
        while taken < ROWS:
            sender.wait(0.01)
            sender.flush()
            taken += sender.take(block, taken, ROWS)
        sender.finish(5.0)
        assert not sender.waiting
        assert meter.messages == sender.sent[0] == ROWS
        assert meter.bytes == ROWS * (frame - 4)
    found = list(find_markers(received[0]))
    assert [f.sequence for f in found] == list(range(ROWS))
    assert all(f.state == "intact" for f in found)
    assert len(received[0]) == ROWS * frame


@pytest.mark.slow
def test_a_peer_that_goes_away_is_told_with_what_was_sent() -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    meter = Meter()
    block = _block(ROWS)
    with _listening(serve) as url, _sender(url, meter) as sender:

        def go_on() -> None:
            for _ in range(1000):
                sender.take(block, 0, 10)
                sender.wait(0.01)
                sender.flush()

        with pytest.raises(Unreachable, match=r"connection 0 broke after \d+ messages"):
            go_on()
        assert sender.sent[0] == meter.messages


@pytest.mark.slow
def test_a_run_whose_peer_goes_away_reports_and_leaves_a_whole_audit(tmp_path: Path) -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(100_000)

    with _listening(serve) as url:
        report = run_load("mixed", url, seconds=5, keys=1, audit=tmp_path / "audit")
    assert "broke" in report.error
    assert 0 < report.messages < 50_000
    audit = read_audit(tmp_path / "audit")
    assert audit.complete
    assert sum(audit.sent) == report.messages


@pytest.mark.slow
def test_tls_carries_the_same_frames_and_checks_the_peer(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "known")
    context = authority.server_context(authority.issue("server"))
    received = []

    def serve(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True) as secure:
            received.append(_read_all(secure))

    with _listening(serve) as url:
        report = run_load(
            "mixed",
            url,
            seconds=0.2,
            rate=Rate(messages_per_second=1000),
            keys=1,
            audit=tmp_path / "audit",
            tls=authority.client_context(),
        )
    assert not report.error
    assert len(list(find_markers(received[0]))) == report.messages > 0

    def refuse(peer: socket.socket) -> None:
        with pytest.raises(OSError), context.wrap_socket(peer, server_side=True) as secure:
            secure.recv(1)

    with _listening(refuse) as url, pytest.raises(Unreachable, match="certificate verify failed"):
        run_load("mixed", url, seconds=0.1, keys=1, tls=ssl.create_default_context())


def test_tls_is_not_for_udp() -> None:
    with pytest.raises(UsageError, match="TLS is for tcp"):
        run_load("mixed", "udp://127.0.0.1:9", seconds=0.1, tls=ssl.create_default_context())
