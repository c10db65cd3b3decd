"""The tcp sink on real sockets, real TLS and a peer process that is really killed."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.tally import Tally
from streamspec.sinks.tcp import TcpSink, TcpSinkConfig
from streamspec.testing.certificates import Authority
from streamspec.testing.clock import ManualClock
from streamspec.testing.deliveries import ListBatch, ListDelivery, make_delivery

BOTH_LOOPS = True


def records(*names: str) -> ListBatch:
    """One delivery per name, with the name as its only record."""
    return ListBatch(make_delivery([b"x"], records=[("r", memoryview(f"{name}\n".encode()))]) for name in names)


class Peer:
    """A listening end that the test drives: it accepts, reads and closes when told."""

    def __init__(self, port: int = 0, receive_buffer_bytes: int | None = None) -> None:
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_buffer_bytes is not None:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen()
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []

    async def accept(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        accepted, _ = await asyncio.wait_for(loop.sock_accept(self.listener), 5.0)
        self.connections.append(accepted)
        return accepted

    async def read(self, connection: socket.socket, size: int) -> bytes:
        loop, content = asyncio.get_running_loop(), b""
        async with asyncio.timeout(5.0):
            while len(content) < size:
                part = await loop.sock_recv(connection, size - len(content))
                if not part:
                    break
                content += part
        return content

    def close(self) -> None:
        self.listener.close()
        for connection in self.connections:
            connection.close()


@contextmanager
def peer(**options: Any) -> Iterator[Peer]:
    one = Peer(**options)
    try:
        yield one
    finally:
        one.close()


@asynccontextmanager
async def opened(port: int, **options: Any) -> AsyncIterator[tuple[TcpSink, Tally]]:
    sink, tally = make_sink(port, **options), Tally()
    await sink.open(tally)
    try:
        yield sink, tally
    finally:
        await sink.close()
        await sink.close()


def make_sink(port: int, **options: Any) -> TcpSink:
    seams = {key: options.pop(key) for key in ("clock", "sleep", "uniform") if key in options}
    fields = {"type": "tcp", "address": f"127.0.0.1:{port}", "reconnect_initial": "1 ms", "close_timeout": "1 s"}
    return TcpSink("out", TcpSinkConfig.model_validate({**fields, **options}), **seams)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def finished(task: asyncio.Task[None]) -> None:
    await asyncio.wait_for(task, 5.0)


# -- content and framing ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "framing", "stream"),
    [
        ("records", "newline", b"{}\n[]\n"),
        ("records", "length", b"\0\0\0\2{}\0\0\0\2[]"),
        ("payload", "length", b"\0\0\0\1a\0\0\0\2bc"),
        ("payload", "newline", b"a\nbc\n"),
        ("payload", "raw", b"abc"),
    ],
)
async def test_frames_arrive(content: str, framing: str, stream: bytes) -> None:
    delivery = make_delivery([b"a", b"bc"], records=[("r", memoryview(b"{}\n[]\n"))])
    with peer() as one:
        async with opened(one.port, content=content, framing=framing) as (sink, tally):
            connection = await one.accept()
            await sink.write(ListBatch([delivery]))
            assert await one.read(connection, len(stream)) == stream
            await sink.write(ListBatch([ListDelivery()]))  # nothing to say
            await sink.write(ListBatch([]))
        assert await one.read(connection, 1) == b""
        assert tally.counts == {}


async def test_a_large_batch_arrives_whole() -> None:
    messages = [bytes([i % 256]) * 3000 for i in range(2000)]
    with peer() as one:
        async with opened(one.port, content="payload", framing="raw") as (sink, _):
            connection = await one.accept()
            batch = ListBatch([make_delivery(messages[i : i + 50]) for i in range(0, len(messages), 50)])
            write = asyncio.create_task(sink.write(batch))
            assert await one.read(connection, 6_000_000) == b"".join(messages)
            await finished(write)


async def test_what_the_peer_says_is_thrown_away() -> None:
    with peer() as one:
        async with opened(one.port) as (sink, tally):
            connection = await one.accept()
            connection.sendall(b"welcome" * 10_000)
            for i in range(5):
                await sink.write(records(f"{i}"))
            assert await one.read(connection, 10) == b"0\n1\n2\n3\n4\n"
        assert tally.counts == {}


# -- taken means acknowledged -----------------------------------------------------------------
async def test_write_waits_for_a_peer_that_does_not_read() -> None:
    content = [b"x" * 50_000] * 100
    with peer(receive_buffer_bytes=65536) as one:
        async with opened(one.port, content="payload", framing="raw") as (sink, _):
            connection = await one.accept()
            write = asyncio.create_task(sink.write(ListBatch([make_delivery(content)])))
            await asyncio.wait([write], timeout=0.05)
            assert not write.done()
            assert len(await one.read(connection, 5_000_000)) == 5_000_000
            await finished(write)


async def test_unacknowledged_bytes_are_not_taken_though_the_kernel_has_them() -> None:
    with peer(receive_buffer_bytes=4096) as one:
        async with opened(one.port, content="payload", framing="raw") as (sink, _):
            connection = await one.accept()
            write = asyncio.create_task(sink.write(ListBatch([make_delivery([b"x" * 200_000])])))
            await until(lambda: sink._next == 1)  # all of it is in our kernel's queue
            await asyncio.wait([write], timeout=0.02)
            assert not write.done()
            assert len(await one.read(connection, 200_000)) == 200_000
            await finished(write)


async def test_a_batch_cut_off_is_sent_again_as_a_whole() -> None:
    with peer(receive_buffer_bytes=4096) as one:
        async with opened(one.port, content="payload", framing="newline") as (sink, tally):
            connection = await one.accept()
            batch = ListBatch([make_delivery([bytes([65 + i]) * 100_000]) for i in range(20)])
            write = asyncio.create_task(sink.write(batch))
            assert len(await one.read(connection, 150_000)) == 150_000
            connection.close()  # with unread bytes: a reset
            connection = await one.accept()
            expected = b"".join(bytes([65 + i]) * 100_000 + b"\n" for i in range(20))
            assert await one.read(connection, len(expected)) == expected
            await finished(write)
        assert tally["reconnects"] == 1
        assert 2 <= tally["resent_segments"] <= 20


async def test_what_a_peer_never_read_is_sent_again() -> None:
    """Acknowledged by its kernel, lost with its process: the reset at its end says so."""
    with peer() as one:
        async with opened(one.port) as (sink, tally):
            connection = await one.accept()
            await sink.write(records("read"))
            assert await one.read(connection, 5) == b"read\n"
            await sink.write(records("unread"))
            connection.close()
            write = asyncio.create_task(sink.write(records("next")))
            connection = await one.accept()
            assert await one.read(connection, 17) == b"read\nunread\nnext\n"
            await finished(write)
        assert tally.counts == {"reconnects": 1, "resent_segments": 2}


async def test_what_a_peer_read_before_it_closed_is_not_sent_again() -> None:
    with peer() as one:
        async with opened(one.port) as (sink, tally):
            connection = await one.accept()
            for i in range(3):
                await sink.write(records(f"{i}"))
                assert await one.read(connection, 2) == f"{i}\n".encode()
                connection.close()
                write = asyncio.create_task(sink.write(records(f"{i}+")))
                connection = await one.accept()
                assert await one.read(connection, 3) == f"{i}+\n".encode()
                await finished(write)
        assert tally.counts == {"reconnects": 3}


async def test_what_is_replayed_is_bounded() -> None:
    with peer() as one:
        async with opened(one.port, replay_bytes=8) as (sink, tally):
            connection = await one.accept()
            for i in range(10):
                await sink.write(records(f"{i:03}"))
            assert sink._kept_bytes == 8
            await until(lambda: len(connection.recv(100, socket.MSG_PEEK)) == 40)
            connection.close()
            write = asyncio.create_task(sink.write(records("end")))
            connection = await one.accept()
            assert await one.read(connection, 12) == b"008\n009\nend\n"
            await finished(write)
        assert tally.counts == {"reconnects": 1, "resent_segments": 2}


async def test_a_cancelled_write_leaves_no_half_frame_behind() -> None:
    with peer(receive_buffer_bytes=65536) as one:
        async with opened(one.port, content="payload", framing="length") as (sink, _):
            connection = await one.accept()
            write = asyncio.create_task(sink.write(ListBatch([make_delivery([b"x" * 10_000_000])])))
            await one.read(connection, 1000)
            write.cancel()
            with pytest.raises(asyncio.CancelledError):
                await write
            again = asyncio.create_task(sink.write(ListBatch([make_delivery([b"tail"])])))
            connection = await one.accept()
            stream = await one.read(connection, 4 + 10_000_000 + 4 + 4)
            assert stream[:4] == struct.pack(">I", 10_000_000)
            assert stream[-8:] == b"\0\0\0\4tail"
            await finished(again)


# -- reconnecting -----------------------------------------------------------------------------
async def test_attempts_back_off_by_doubling_with_jitter() -> None:
    slept: list[float] = []
    drawn: list[tuple[float, float]] = []
    second: list[Peer] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return (low + high) / 2

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 5:
            second.append(Peer(port))
        await asyncio.sleep(0)

    with peer() as one:
        port = one.port
        options = {"reconnect_initial": 1, "reconnect_max": 6, "sleep": sleep, "uniform": uniform}
        async with opened(port, **options) as (sink, tally):
            connection = await one.accept()
            await sink.write(records("before"))
            assert await one.read(connection, 7) == b"before\n"
            one.close()
            write = asyncio.create_task(sink.write(records("after")))
            await until(lambda: bool(second))
            connection = await second[0].accept()
            assert await second[0].read(connection, 6) == b"after\n"
            await finished(write)
        second[0].close()
    assert drawn == [(0.5, 1), (1, 2), (2, 4), (3, 6), (3, 6)]
    assert slept == [0.75, 1.5, 3, 4.5, 4.5]
    assert tally.counts == {"connect_failures": 5, "reconnects": 1}


async def test_a_peer_that_accepts_and_hangs_up_is_not_hammered() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    with peer(receive_buffer_bytes=4096) as one:
        async with opened(one.port, reconnect_initial=1, sleep=sleep, uniform=max) as (sink, _):
            write = asyncio.create_task(sink.write(records("x" * 300_000)))
            for _ in range(4):
                connection = await one.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            connection = await one.accept()
            assert len(await one.read(connection, 300_001)) == 300_001
            await finished(write)
    assert slept == [1, 2, 4]


COLLECTOR = """
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    while seen := connection.recv(4096, socket.MSG_PEEK):
        complete = seen[: seen.rfind(b"\\n") + 1]
        os.write(out, complete)
        connection.recv(len(complete))
"""
"""Takes lines off the socket only after they are in its file: killed anywhere, it has read nothing in vain."""


def start_collector(port: int, path: Path) -> tuple[subprocess.Popen[str], int]:
    arguments = [sys.executable, "-c", COLLECTOR, str(port), str(path)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.slow
async def test_every_record_arrives_though_the_peer_is_killed_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    total, per_batch = 6000, 50
    process, port = start_collector(0, path)
    try:
        async with opened(port) as (sink, tally):

            async def write_all() -> None:
                for start in range(0, total, per_batch):
                    await sink.write(records(*(f"{i:06}" for i in range(start, start + per_batch))))
                    await asyncio.sleep(0.002)

            write = asyncio.create_task(write_all())
            for kill_at in (500, 1500, 3000, 4500):
                await until(lambda: path.exists() and path.stat().st_size // 7 >= kill_at)  # noqa: B023
                process.kill()
                process.communicate()
                process, _ = start_collector(port, path)
            await asyncio.wait_for(write, 20.0)
        assert tally["reconnects"] >= 4
        await until(lambda: path.read_bytes().endswith(b"%06d\n" % (total - 1)))
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    arrived = [int(line) for line in path.read_text().split()]
    firsts = list(dict.fromkeys(arrived))
    assert firsts == list(range(total)), "a record is missing or first came out of order"
    assert len(arrived) - total <= 7 * tally["resent_segments"]


# -- close ------------------------------------------------------------------------------------
async def test_close_counts_what_it_could_not_bring_there() -> None:
    with peer(receive_buffer_bytes=4096) as one:
        async with opened(one.port, content="payload", framing="raw", close_timeout="20 ms") as (sink, tally):
            await one.accept()
            batch = ListBatch([make_delivery([b"x" * 300_000]) for _ in range(30)])
            write = asyncio.create_task(sink.write(batch))
            await asyncio.wait([write], timeout=0.02)
            write.cancel()
            await asyncio.gather(write, return_exceptions=True)
            left = len(sink._kept)
        assert tally["undelivered_segments"] == left > 0


async def test_close_sends_what_a_dead_peer_had_not_read() -> None:
    with peer() as one:
        async with opened(one.port) as (sink, tally):
            connection = await one.accept()
            await sink.write(records("unread"))
            connection.close()
            closing = asyncio.create_task(sink.close())
            connection = await one.accept()
            assert await one.read(connection, 7) == b"unread\n"
            await finished(closing)
        assert tally.counts == {"reconnects": 1, "resent_segments": 1}


async def test_close_after_a_failed_open() -> None:
    with peer() as one:
        port = one.port
    sink = make_sink(port, connect_timeout=0)
    with pytest.raises(DependencyUnavailable, match=r"sinks.out.address: cannot connect: .*next: start the peer first"):
        await sink.open(Tally())
    await sink.close()


# -- opening ----------------------------------------------------------------------------------
async def test_a_peer_that_starts_later_is_waited_for() -> None:
    late: list[Peer] = []

    async def sleep(_: float) -> None:
        if not late:
            late.append(Peer(port))

    with peer() as one:
        port = one.port
    async with opened(port, sleep=sleep) as (sink, tally):
        connection = await late[0].accept()
        await sink.write(records("hello"))
        assert await late[0].read(connection, 6) == b"hello\n"
        late[0].close()
    assert tally.counts == {}


async def test_an_unknown_host() -> None:
    sink = make_sink(1, address="nowhere.invalid:9", connect_timeout=0)
    with pytest.raises(DependencyUnavailable, match="check the name"):
        await sink.open(Tally())
    await sink.close()


@pytest.mark.root
async def test_the_class_of_priority_is_set() -> None:
    with peer() as one:
        async with opened(one.port, priority_class="1:10") as (sink, _):
            assert sink._connection is not None
            assert sink._connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 0x10010


WITHOUT_CAPABILITY = """
import asyncio
from streamspec.core.tally import Tally
from streamspec.sinks.tcp import TcpSinkConfig
sink = TcpSinkConfig(type="tcp", address="127.0.0.1:9", priority_class="1:10").build("out")
try:
    asyncio.run(sink.open(Tally()))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_a_class_of_priority_without_the_capability() -> None:
    def drop() -> None:
        for capability in (12, 13):  # CAP_NET_ADMIN, CAP_NET_RAW: gone from what exec will grant (PR_CAPBSET_DROP)
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)

    arguments = [sys.executable, "-c", WITHOUT_CAPABILITY]
    done = subprocess.run(arguments, preexec_fn=drop, capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout.startswith(
        "DependencyUnavailable sinks.out.priority_class: setting SO_PRIORITY is not permitted"
    )


async def test_a_limit_of_rate_is_kept() -> None:
    clock = ManualClock()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)
        await asyncio.sleep(0)

    with peer() as one:
        options = {"content": "payload", "framing": "raw", "bytes_per_second": "1 MB/s", "clock": clock, "sleep": sleep}
        async with opened(one.port, **options) as (sink, _):
            connection = await one.accept()
            batch = ListBatch([make_delivery([b"x" * 1000] * 4) for _ in range(50)])
            write = asyncio.create_task(sink.write(batch))
            assert len(await one.read(connection, 200_000)) == 200_000
            await finished(write)
    burst = TcpSinkConfig(type="tcp", address="h:1", bytes_per_second=1e6).burst_bytes
    assert sum(slept) == pytest.approx((200_000 - burst) / 1e6)
    assert max(slept) <= (burst + 4000) / 1e6


# -- TLS --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def tls_peer(context: ssl.SSLContext) -> AsyncIterator[tuple[int, list[bytes], list[asyncio.StreamWriter]]]:
    """A server that collects what it reads."""
    parts: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while part := await reader.read(65536):
                parts.append(part)
        except OSError:
            pass
        writer.transport.abort()

    server = await asyncio.start_server(collect, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], parts, writers
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await until(lambda: all(writer.transport.is_closing() for writer in writers))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_frames_over_tls(authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.server_context(authority.issue("server"))
    context.minimum_version = context.maximum_version = version
    messages = [bytes([i % 256]) * 3000 for i in range(700)]
    async with tls_peer(context) as (port, parts, _):
        options = {"content": "payload", "framing": "raw", "tls": {"ca": str(authority.certificate)}}
        async with opened(port, **options) as (sink, tally):
            await sink.write(ListBatch([make_delivery(messages)]))
            await until(lambda: sum(map(len, parts)) == 2_100_000)
            assert b"".join(parts) == b"".join(messages)
        assert tally.counts == {}


async def test_a_tls_peer_that_breaks_off_gets_everything_again(authority: Authority) -> None:
    context = authority.server_context(authority.issue("server"))
    async with tls_peer(context) as (port, parts, writers):
        async with opened(port, tls={"ca": str(authority.certificate)}) as (sink, tally):
            await sink.write(records("one"))
            await until(lambda: b"".join(parts) == b"one\n")
            writers[0].transport.abort()
            await asyncio.sleep(0.005)
            await sink.write(records("two"))
            await until(lambda: b"".join(parts) == b"one\none\ntwo\n")
        assert tally.counts == {"reconnects": 1, "resent_segments": 1}


async def test_mutual_tls(authority: Authority) -> None:
    context = authority.server_context(authority.issue("server"))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    client = authority.issue("client")
    tls = {"ca": str(authority.certificate), "certificate": str(client.certificate), "key": str(client.key)}
    async with (
        tls_peer(context) as (port, parts, _),
        opened(port, tls=tls, address=f"localhost:{port}") as (sink, _),
    ):
        await sink.write(records("known"))
        await until(lambda: parts == [b"known\n"])


@pytest.mark.parametrize("change", [{"ca": "stranger"}, {"server_name": "elsewhere.example"}])
async def test_a_peer_that_is_not_who_it_should_be(
    authority: Authority, tmp_path: Path, change: dict[str, str]
) -> None:
    stranger = Authority(tmp_path, "stranger")
    tls = {"ca": str(authority.certificate), **change}
    if tls["ca"] == "stranger":
        tls["ca"] = str(stranger.certificate)
    async with tls_peer(authority.server_context(authority.issue("server"))) as (port, parts, _):
        sink = make_sink(port, tls=tls)
        with pytest.raises(DependencyUnavailable, match=r"certificate verify failed.*next: check tls\.ca"):
            await sink.open(Tally())
        await sink.close()
        async with opened(port, tls={**tls, "verify": False}) as (trusting, _):
            await trusting.write(records("whoever"))
            await until(lambda: parts == [b"whoever\n"])


async def test_tls_to_a_peer_without(authority: Authority) -> None:
    with peer() as one:
        sink = make_sink(one.port, tls={"ca": str(authority.certificate)}, connect_timeout=0)
        opening = asyncio.create_task(sink.open(Tally()))
        connection = await one.accept()
        connection.sendall(b"220 this is not TLS\r\n")
        with pytest.raises(DependencyUnavailable, match="cannot connect"):
            await opening
        await sink.close()


async def test_files_for_tls(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    cases: Sequence[tuple[str, type[Exception]]] = [("missing.pem", DependencyUnavailable), ("empty.pem", ConfigError)]
    for name, kind in cases:
        sink = make_sink(1, tls={"ca": str(tmp_path / name)})
        with pytest.raises(kind, match=r"sinks.out.tls"):
            await sink.open(Tally())
        await sink.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"address": "nowhere"},
        {"content": "all"},
        {"framing": "chunks"},
        {"tls": {"certificate": "a.pem"}},
        {"tls": {"minimum_version": "1.0"}},
        {"reconnect_initial": 0},
        {"peer_timeout": 0},
        {"unknown": 1},
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TcpSinkConfig.model_validate({"type": "tcp", "address": "127.0.0.1:9", **fields})
