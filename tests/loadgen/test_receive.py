"""The receiver takes frames apart however they are cut, and says what is broken."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import Unreachable, UsageError
from loadgen.receive import Received, Receiver, _frames
from loadgen.records import read_records
from loadgen.target import parse_target


def _framed(messages: list[bytes], framing: str) -> bytes:
    if framing == "newline":
        return b"".join(message + b"\n" for message in messages)
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=8),
    st.sampled_from(["length", "newline"]),
    st.data(),
)
@settings(deadline=None, max_examples=80)
def test_frames_come_out_whole_however_the_stream_is_cut(
    messages: list[bytes], framing: str, data: st.DataObject
) -> None:
    stream = _framed(messages, framing)
    out: list[bytes] = []
    buffer = bytearray()
    position = 0
    while position < len(stream):
        size = data.draw(st.integers(1, 20))
        buffer += stream[position : position + size]
        position += size
        done = 0
        for message, end in _frames(buffer, framing):
            out.append(message)
            done = end
        del buffer[:done]
    assert out == messages
    assert not buffer


@contextmanager
def _receiving(url: str, out: Path) -> Iterator[Receiver]:
    receiver = Receiver(parse_target(url, listening=True), out)
    stop = threading.Event()
    thread = threading.Thread(target=receiver.run, args=(stop.is_set,))
    thread.start()
    try:
        yield receiver
    finally:
        stop.set()
        thread.join(10)
        receiver.close()


@pytest.mark.slow
def test_connections_are_told_apart_and_broken_ones_counted(tmp_path: Path) -> None:
    with _receiving("tcp://127.0.0.1:0", tmp_path / "out") as receiver:
        peers = [socket.create_connection(receiver.address) for _ in range(3)]
        peers[0].sendall(_framed([b"a", b"bb"], "length"))
        peers[1].sendall(_framed([b"c"], "length") + b"\0\0\0\7torn")
        peers[2].sendall(b"\xff\xff\xff\xff no frame is that long")
        for peer in peers:
            peer.shutdown(socket.SHUT_WR)
        for peer in peers:
            peer.settimeout(5)
            try:
                assert peer.recv(1) == b""  # the receiver closed it
            except ConnectionResetError:
                pass
            peer.close()
    assert receiver.received == Received(messages=3, bytes=4, connections=3, broken_frames=2)
    records = list(read_records(tmp_path / "out"))
    assert sorted(record.content for record in records) == [b"a", b"bb", b"c"]
    assert len({record.key for record in records}) == 2
    assert all(record.arrival_ns > 1_600_000_000 * 10**9 for record in records)


@pytest.mark.slow
def test_datagrams_of_every_size_are_kept(tmp_path: Path) -> None:
    sizes = [1, 2, 1400, 9000, 65507, 64]
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with _receiving("udp://127.0.0.1:0", tmp_path / "out") as receiver, peer:
        for size in sizes:
            peer.sendto(bytes([size % 251]) * size, receiver.address)
    assert receiver.received.messages == len(sizes)
    assert receiver.received.kernel_drops == 0
    assert [r.content for r in read_records(tmp_path / "out")] == [bytes([s % 251]) * s for s in sizes]


def test_a_port_in_use_and_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Unreachable, match="cannot listen: Address already in use"):
            Receiver(parse_target(url), tmp_path / "out")
    with pytest.raises(UsageError, match="cannot write"):
        Receiver(parse_target("udp://127.0.0.1:0", listening=True), tmp_path / "no" / "out")


@pytest.mark.slow
def test_the_command_stops_at_a_signal_with_its_counts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadgen", "receive", "--listen", "udp://127.0.0.1:0", "--json"]
    child = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    port = int(child.stderr.readline().rsplit(":", 1)[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"hello", ("127.0.0.1", port))
    child.send_signal(signal.SIGTERM)
    stdout, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert json.loads(stdout)["messages"] == 1
