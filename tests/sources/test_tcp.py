"""The tcp source on real sockets and real TLS: framing, limits, backpressure, start and stop."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from streamspec.core.clock import SystemClock
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.interfaces import ClosableSource
from streamspec.core.segment import CONTENT_MESSAGES, SlotLayout
from streamspec.sources.tcp import TcpConfig, TcpSource
from streamspec.testing.certificates import Authority
from streamspec.testing.clock import ManualClock
from streamspec.testing.intake import RecordingIntake

LAYOUT = SlotLayout(payload_bytes=16 * 1024, packet_capacity=256, meta_bytes=256, output_bytes=4096)


BOTH_LOOPS = True


@contextmanager
def new_intake(**options: Any) -> Iterator[RecordingIntake]:
    intake = RecordingIntake(**{"layout": LAYOUT, "slots": 16, "clock": SystemClock(), **options})
    try:
        yield intake
        assert len(intake.held) + intake.arena.free_slots == intake.arena.slots, "a slot was not given back"
    finally:
        intake.close()


@asynccontextmanager
async def running(intake: RecordingIntake, **options: Any) -> AsyncIterator[TcpSource]:
    """An open source whose ``run`` is under way; stopped and closed at the end, when that has not happened."""
    fields = {"type": "tcp", "bind": "127.0.0.1:0", "framing": "length", "linger": "1 ms", **options}
    source = TcpConfig.model_validate(fields).build("streams")
    await source.open(intake)
    run = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        await source.stop()
        await asyncio.wait_for(run, 5.0)
        await source.close()


@asynccontextmanager
async def connected(
    source: TcpSource, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*source.address, **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except OSError:
            pass


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def closed_by_peer(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(5.0):
        try:
            return await reader.read(1) == b""
        except OSError:
            return True


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def frames_of(intake: RecordingIntake, key: bytes | None = None) -> list[bytes]:
    return [m for segment in intake.committed if key in (None, segment.key) for m in segment.messages()]


def key_of(writer: asyncio.StreamWriter) -> bytes:
    host, port = writer.get_extra_info("sockname")[:2]
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()


# -- framing ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("framing", "stream", "frames", "first_offset"),
    [
        ("length", framed(b"one", b"", b"three"), [b"one", b"", b"three"], 4),
        ("newline", b"one\n\nthree\r\n", [b"one", b"", b"three\r"], 0),
        ("chunks", b"anything\n", [b"anything\n"], 0),
    ],
)
async def test_frames_become_rows_of_a_segment(
    framing: str, stream: bytes, frames: list[bytes], first_offset: int
) -> None:
    with new_intake() as intake:
        async with running(intake, framing=framing) as source, connected(source) as (_, writer):
            writer.write(stream)
            (segment,) = await intake.wait_for(1)
            assert segment.messages() == frames
            assert segment.payload == stream
            assert segment.key == key_of(writer)
            assert segment.packets["offset"][0] == first_offset
            assert (segment.packets["captured_bytes"] == segment.packets["wire_bytes"]).all()
            header = segment.header
            assert (header["content"], header["length"], header["packets"]) == (
                CONTENT_MESSAGES,
                len(stream),
                len(frames),
            )
            assert 0 < header["arrival_ns"] <= intake.clock.monotonic_ns()
            assert header["timestamp_ns"] == segment.packets["timestamp_ns"][0]
            assert abs(int(header["timestamp_ns"]) - intake.clock.time_ns()) < 5_000_000_000
        assert intake.tally.counts == {}


async def test_a_frame_in_two_halves() -> None:
    with new_intake() as intake:
        async with running(intake) as source, connected(source) as (_, writer):
            stream = framed(b"whole")
            writer.write(stream[:3])
            await until(lambda: source_of(source).connections != set())
            writer.write(stream[3:7])
            await writer.drain()
            writer.write(stream[7:])
            assert (await intake.wait_for(1))[0].messages() == [b"whole"]


def source_of(source: TcpSource) -> Any:
    """Its inside, to wait for something that cannot be seen from outside."""
    return source._reception


@pytest.mark.parametrize("framing", ["length", "newline", "chunks"])
async def test_many_frames_cross_many_slots(framing: str) -> None:
    frames = [bytes([65 + i % 26]) * (i * 37 % 3000) for i in range(400)]
    stream = framed(*frames) if framing == "length" else b"".join(frame + b"\n" for frame in frames)
    with new_intake() as intake:
        async with running(intake, framing=framing) as source, connected(source) as (_, writer):
            writer.write(stream)
            await until(lambda: sum(int(s.header["length"]) for s in intake.committed) == len(stream))
            assert len({segment.key for segment in intake.committed}) == 1
        assert len(intake.committed) > len(stream) // LAYOUT.payload_bytes
        if framing == "chunks":
            assert b"".join(frames_of(intake)) == stream
        else:
            assert frames_of(intake) == frames


async def test_connections_are_keys_of_their_own() -> None:
    with new_intake() as intake:
        async with running(intake) as source, connected(source) as (_, one), connected(source) as (_, two):
            one.write(framed(b"1a"))
            two.write(framed(b"2a"))
            one.write(framed(b"1b"))
            await intake.wait_for_packets(3)
            assert frames_of(intake, key_of(one)) == [b"1a", b"1b"]
            assert frames_of(intake, key_of(two)) == [b"2a"]
            assert len({int(segment.header["key_hash"]) for segment in intake.committed}) == 2


async def test_ipv6() -> None:
    with new_intake() as intake:
        async with running(intake, bind="[::1]:0") as source, connected(source) as (_, writer):
            writer.write(framed(b"six"))
            (segment,) = await intake.wait_for(1)
            assert segment.key == key_of(writer)
            assert segment.key.startswith(b"[::1]:")


async def test_linger_is_by_the_clock() -> None:
    with new_intake(clock=ManualClock()) as intake:
        clock = intake.clock
        assert isinstance(clock, ManualClock)
        async with running(intake, linger="10 ms") as source, connected(source) as (_, writer):
            writer.write(framed(b"first"))
            await until(lambda: intake.arena.free_slots < intake.arena.slots)
            clock.advance(0.009)
            await asyncio.sleep(0.02)
            assert intake.committed == []
            clock.advance(0.002)
            assert (await intake.wait_for(1))[0].messages() == [b"first"]


# -- limits -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("framing", "bad"), [("length", b"\x00\x00\x04\x01"), ("newline", b"x" * 1025 + b"\n")])
async def test_a_frame_above_the_limit_closes_its_connection_only(framing: str, bad: bytes) -> None:
    good = framed(b"good") if framing == "length" else b"good\n"
    with new_intake() as intake:
        async with (
            running(intake, framing=framing, max_frame_bytes="1 KiB") as source,
            connected(source) as (_, other),
            connected(source) as (reader, writer),
        ):
            writer.write(good + bad)
            assert await closed_by_peer(reader)
            other.write(good)
            await intake.wait_for_packets(2)
            assert frames_of(intake, key_of(writer)) == frames_of(intake, key_of(other)) == [b"good"]
        assert intake.tally.counts == {"frame_too_large": 1}


async def test_the_end_inside_a_frame_is_counted() -> None:
    with new_intake() as intake:
        async with running(intake) as source, connected(source) as (reader, writer):
            writer.write(framed(b"complete") + b"\0\0\0\x09half")
            writer.write_eof()
            assert await closed_by_peer(reader)
            await intake.wait_for(1)
        assert frames_of(intake) == [b"complete"]
        assert intake.tally.counts == {"incomplete_frames": 1}


async def test_a_reset_is_counted() -> None:
    with new_intake() as intake:
        async with running(intake) as source:
            one = socket.create_connection(source.address)
            one.sendall(framed(b"last words"))
            await intake.wait_for(1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.close()
            await until(lambda: bool(intake.tally.counts))
        assert frames_of(intake) == [b"last words"]
        assert intake.tally.counts == {"connections_reset": 1}


async def test_connections_above_the_limit_are_refused() -> None:
    with new_intake() as intake:
        async with running(intake, max_connections=2) as source:
            async with connected(source) as (_, first), connected(source) as (_, second):
                first.write(framed(b"1"))
                second.write(framed(b"2"))
                await intake.wait_for(2)
                async with connected(source) as (reader, _):
                    assert await closed_by_peer(reader)
                assert intake.tally.counts == {"connections_refused": 1}
            await until(lambda: not source_of(source).connections)
            async with connected(source) as (_, third):  # a place became free
                third.write(framed(b"3"))
                await intake.wait_for(3)
        assert sorted(frames_of(intake)) == [b"1", b"2", b"3"]


async def test_an_idle_connection_is_closed() -> None:
    with new_intake(clock=ManualClock()) as intake:
        clock = intake.clock
        assert isinstance(clock, ManualClock)
        async with (
            running(intake, idle_timeout="80 ms", linger=0) as source,
            connected(source) as (_, busy),
            connected(source) as (reader, silent),
        ):
            silent.write(framed(b"hello") + b"\0")
            busy.write(framed(b"still here"))
            await intake.wait_for_packets(2)
            clock.advance(0.06)
            busy.write(framed(b"and here"))
            await intake.wait_for_packets(3)
            clock.advance(0.03)
            assert await closed_by_peer(reader)
            busy.write(framed(b"unharmed"))
            await intake.wait_for_packets(4)
        assert intake.tally.counts == {"idle_timeouts": 1, "incomplete_frames": 1}


async def test_many_idle_and_half_open_connections_leave_the_arena_free() -> None:
    with new_intake(slots=4) as intake:
        async with running(intake) as source:
            crowd = [socket.create_connection(source.address) for _ in range(60)]
            for i, one in enumerate(crowd):
                one.sendall(b"" if i % 2 else b"\0\0\0\x05he")
            await until(lambda: len(source_of(source).connections) == 60)
            async with connected(source) as (_, writer):
                for i in range(5):
                    writer.write(framed(b"%d" % i))
                    await intake.wait_for_packets(i + 1)
            for one in crowd[::2]:
                one.sendall(b"llo")
            await intake.wait_for_packets(35)
            for one in crowd:
                one.close()
        assert frames_of(intake)[5:] == [b"hello"] * 30
        assert intake.tally.counts == {}


async def test_without_descriptors_it_goes_on_when_there_are_some() -> None:
    with new_intake() as intake:
        async with running(intake) as source:
            clients = [socket.socket() for _ in range(2)]
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, hard))
            plugs = []
            try:
                while True:
                    plugs.append(os.dup(0))
            except OSError:
                pass
            try:
                for one in clients:
                    one.connect(source.address)
                await until(lambda: bool(intake.tally.counts))
            finally:
                for plug in plugs:
                    os.close(plug)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for one in clients:
                one.sendall(framed(b"patience"))
            await intake.wait_for_packets(2)
            for one in clients:
                one.close()
        assert set(intake.tally.counts) == {"accept_errors"}


# -- backpressure -----------------------------------------------------------------------------
async def test_without_a_slot_reading_stops_until_there_is_one() -> None:
    frames = [bytes([i % 256]) * 1000 for i in range(12_000)]
    with new_intake(slots=3, hold=True) as intake:
        async with running(intake, segment_bytes="16 KiB") as source, connected(source) as (_, writer):
            key = key_of(writer)
            writer.transport.set_write_buffer_limits(high=0)
            writer.write(framed(*frames))
            sent = asyncio.create_task(writer.drain())
            await until(lambda: len(intake.held) == 3)
            left = await settled(writer.transport.get_write_buffer_size)
            assert not sent.done(), "the sender was not slowed down"
            assert len(intake.committed) == 3
            intake.free_held()
            await until(lambda: len(intake.held) == 3)
            assert await settled(writer.transport.get_write_buffer_size) <= left
            intake.hold = False
            intake.free_held()
            await intake.wait_for_packets(len(frames), timeout_seconds=20)
            await sent
        assert frames_of(intake, key) == frames
        assert intake.tally.counts == {}


async def settled(amount: Callable[[], int]) -> int:
    """What ``amount`` is once it stays the same over twenty turns of the loop with time between."""
    last, same = -1, 0
    while same < 20:
        await asyncio.sleep(0.001)
        same = same + 1 if amount() == last else 0
        last = amount()
    return last


async def test_those_that_wait_are_served_in_turn() -> None:
    with new_intake(slots=2, hold=True) as intake:
        async with running(intake) as source:
            crowd = [socket.create_connection(source.address) for _ in range(10)]
            for i, one in enumerate(crowd):
                one.sendall(framed(b"%d" % i))
            await until(lambda: len(source_of(source).waiting) == 8)
            intake.hold = False
            intake.free_held()
            await intake.wait_for_packets(10)
            for one in crowd:
                one.close()
        assert sorted(frames_of(intake)) == [b"%d" % i for i in range(10)]
        assert intake.tally.counts == {}


async def test_what_waits_for_a_slot_outlives_its_connection() -> None:
    with new_intake(slots=2, hold=True) as intake:
        async with running(intake) as source:
            for word in (b"one", b"two"):
                with socket.create_connection(source.address) as one:
                    one.sendall(framed(word))
                await until(lambda: bool(intake.held) and frames_of(intake)[-1] == word)  # noqa: B023
            with socket.create_connection(source.address) as one:
                one.sendall(framed(b"three") + b"\0\0")
                await until(lambda: bool(source_of(source).waiting))
            await source.stop()
            await until(lambda: not source_of(source).connections)
            intake.free_held()
            await intake.wait_for(3)
            intake.free_held()
        assert frames_of(intake) == [b"one", b"two", b"three"]
        assert intake.tally.counts == {"incomplete_frames": 1}


# -- TLS --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> dict[str, Any]:
    leaf = authority.issue("server")
    return {"certificate": str(leaf.certificate), "key": str(leaf.key)}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_frames_over_tls(authority: Authority, tls: dict[str, Any], version: ssl.TLSVersion) -> None:
    frames = [bytes([i % 256]) * (i * 37 % 5000) for i in range(300)]
    context = authority.client_context()
    context.minimum_version = context.maximum_version = version
    with new_intake() as intake:
        async with running(intake, tls=tls) as source, connected(source, ssl=context) as (_, writer):
            writer.write(framed(*frames))
            await intake.wait_for_packets(len(frames))
            assert frames_of(intake, key_of(writer)) == frames
            await until(lambda: intake.arena.free_slots == intake.arena.slots)  # idle, so it holds nothing
            writer.write(framed(b"after a rest"))
            await intake.wait_for_packets(len(frames) + 1)
        assert intake.tally.counts == {}


async def test_mutual_tls(authority: Authority, tls: dict[str, Any], tmp_path: Path) -> None:
    strict = {**tls, "client_ca": str(authority.certificate), "minimum_version": "1.3"}
    stranger = Authority(tmp_path, "stranger").issue("stranger")
    with new_intake() as intake:
        async with running(intake, tls=strict) as source:
            for leaf in (None, stranger):
                context = authority.client_context()
                if leaf is not None:
                    context.load_cert_chain(leaf.certificate, leaf.key)
                async with connected(source, ssl=context) as (reader, _):
                    assert await closed_by_peer(reader)
            assert intake.tally.counts == {"tls_failures": 2}
            context = authority.client_context(authority.issue("client"))
            async with connected(source, ssl=context) as (_, writer):
                writer.write(framed(b"known"))
                await intake.wait_for(1)
        assert frames_of(intake) == [b"known"]
        assert intake.tally.counts == {"tls_failures": 2}


async def test_an_old_version_is_refused(authority: Authority, tls: dict[str, Any]) -> None:
    context = authority.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with new_intake() as intake:
        async with running(intake, tls={**tls, "minimum_version": "1.3"}) as source:
            with pytest.raises(OSError):  # an alert or a reset
                async with connected(source, ssl=context):
                    pass
            await until(lambda: bool(intake.tally.counts))
        assert intake.tally.counts == {"tls_failures": 1}


async def test_a_failed_handshake_disturbs_nobody(authority: Authority, tls: dict[str, Any], tmp_path: Path) -> None:
    wrong = Authority(tmp_path, "wrong").client_context()
    with new_intake() as intake:
        async with (
            running(intake, tls={**tls, "handshake_timeout": "50 ms"}) as source,
            connected(source, ssl=authority.client_context()) as (_, writer),
        ):
            with pytest.raises(ssl.SSLCertVerificationError):
                async with connected(source, ssl=wrong):
                    pass
            async with connected(source) as (reader, plain):
                plain.write(framed(b"not TLS at all"))
                await until(lambda: intake.tally["tls_failures"] == 2)
                assert await closed_by_peer_after_alert(reader)
            with socket.create_connection(source.address):
                await until(lambda: intake.tally["tls_failures"] == 3)  # says nothing
            writer.write(framed(b"undisturbed"))
            await intake.wait_for(1)
            assert frames_of(intake) == [b"undisturbed"]
            assert len(source_of(source).connections) == 1
        assert intake.tally.counts == {"tls_failures": 3}


async def closed_by_peer_after_alert(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(5.0):
        try:
            return len(await reader.read()) < 64
        except OSError:
            return True


async def test_garbage_after_the_handshake_is_counted(authority: Authority, tls: dict[str, Any]) -> None:
    with new_intake() as intake:
        async with running(intake, tls=tls) as source:
            with socket.create_connection(source.address) as one:
                one.setblocking(False)
                inner, outer = ssl.MemoryBIO(), ssl.MemoryBIO()
                session = authority.client_context().wrap_bio(inner, outer, server_hostname="localhost")
                loop = asyncio.get_running_loop()
                while True:
                    try:
                        session.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        await loop.sock_sendall(one, outer.read())
                        inner.write(await loop.sock_recv(one, 65536))
                session.write(framed(b"fine"))
                await loop.sock_sendall(one, outer.read())
                await intake.wait_for(1)
                await loop.sock_sendall(one, b"\x17\x03\x03\x00\x20" + bytes(32))
                await until(lambda: bool(intake.tally.counts))
        assert frames_of(intake) == [b"fine"]
        assert intake.tally.counts == {"tls_failures": 1}


async def test_backpressure_over_tls(authority: Authority, tls: dict[str, Any]) -> None:
    frames = [bytes([i % 256]) * 1000 for i in range(3_000)]
    with new_intake(slots=3, hold=True) as intake:
        async with running(intake, tls=tls) as source, connected(source, ssl=authority.client_context()) as (_, writer):
            writer.write(framed(*frames))
            await until(lambda: len(intake.held) == 3)
            await settled(lambda: len(intake.committed))
            assert len(intake.committed) == 3
            intake.hold = False
            intake.free_held()
            await intake.wait_for_packets(len(frames))
        assert frames_of(intake) == frames
        assert intake.tally.counts == {}


# -- start and stop ---------------------------------------------------------------------------
async def test_stop_commits_what_is_complete() -> None:
    with new_intake() as intake:
        async with running(intake, linger="1 h") as source, connected(source) as (reader, writer):
            writer.write(framed(b"a", b"b") + b"\0\0\0\x09half")
            await until(lambda: intake.arena.free_slots < intake.arena.slots)
            assert intake.committed == []
            await source.stop()
            await source.stop()
            assert await closed_by_peer(reader)
            await intake.wait_for(1)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*source.address)
        assert frames_of(intake) == [b"a", b"b"]
        assert intake.tally.counts == {"incomplete_frames": 1}


async def test_stop_before_run_and_close_without_run() -> None:
    with new_intake() as intake:
        source = TcpConfig(type="tcp", bind="127.0.0.1:0", framing="length").build("streams")
        assert isinstance(source, ClosableSource)
        await source.close()
        await source.open(intake)
        await source.stop()
        await asyncio.wait_for(source.run(), 5.0)
        await source.close()


async def test_a_cancelled_run_leaves_nothing_open() -> None:
    with new_intake() as intake:
        source = TcpConfig(type="tcp", bind="127.0.0.1:0", framing="length").build("streams")
        await source.open(intake)
        run = asyncio.create_task(source.run())
        async with connected(source) as (reader, writer):
            writer.write(framed(b"x"))
            await until(lambda: intake.arena.free_slots < intake.arena.slots)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert await closed_by_peer(reader)
        await source.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bind": "192.0.2.1:9000"}, "sources.streams.bind: cannot listen: Cannot assign requested address"),
        ({"bind": "nowhere.invalid:9000"}, "unknown host"),
        ({"tls": {"certificate": "/nonexistent.pem", "key": "/nonexistent.key"}}, "cannot read a file for TLS"),
    ],
)
async def test_what_is_missing_outside(options: dict[str, Any], message: str) -> None:
    with new_intake() as intake:
        source = TcpConfig.model_validate({"type": "tcp", "bind": "127.0.0.1:0", "framing": "length", **options})
        with pytest.raises(DependencyUnavailable, match=message):
            await source.build("streams").open(intake)


async def test_a_port_in_use() -> None:
    with new_intake() as intake:
        async with running(intake) as source:
            second = TcpConfig(type="tcp", bind=f"127.0.0.1:{source.address[1]}", framing="length").build("streams")
            with pytest.raises(DependencyUnavailable, match=r"Address already in use.*next: stop the process"):
                await second.open(intake)
            await second.close()


async def test_files_that_are_no_certificates(authority: Authority, tls: dict[str, Any], tmp_path: Path) -> None:
    empty, locked = tmp_path / "empty.pem", tmp_path / "locked.key"
    empty.write_text("")
    key = serialization.load_pem_private_key(Path(tls["key"]).read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    with new_intake() as intake:
        for change in ({"certificate": empty}, {"key": empty}, {"key": locked}, {"client_ca": empty}):
            config = {"type": "tcp", "bind": "127.0.0.1:0", "framing": "length", "tls": {**tls, **change}}
            with pytest.raises(ConfigError, match=r"sources.streams.tls: the TLS files do not fit"):
                await TcpConfig.model_validate(config).build("streams").open(intake)


async def test_a_frame_larger_than_a_slot_is_a_fault_of_the_configuration() -> None:
    with new_intake() as intake:
        for framing, room in (("length", 16 * 1024 - 4), ("newline", 16 * 1024 - 1), ("chunks", 16 * 1024)):
            fields = {"type": "tcp", "bind": "127.0.0.1:0", "framing": framing}
            source = TcpConfig.model_validate({**fields, "max_frame_bytes": room + 1}).build("streams")
            with pytest.raises(ConfigError, match=rf"max_frame_bytes.*up to {room} bytes.*raise engine.max_packet"):
                await source.open(intake)
            source = TcpConfig.model_validate({**fields, "max_frame_bytes": room}).build("streams")
            await source.open(intake)
            await source.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"bind": "9000"},
        {"bind": "127.0.0.1:99999"},
        {"framing": "varint"},
        {"max_connections": 0},
        {"idle_timeout": 0},
        {"max_frame_bytes": 0},
        {"unknown": 1},
        {"tls": {"certificate": "a.pem"}},
        {"tls": {"certificate": "a.pem", "key": "a.key", "minimum_version": "1.1"}},
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TcpConfig.model_validate({"type": "tcp", "bind": "127.0.0.1:0", "framing": "length", **fields})
