"""The udp source on real sockets: gathering, limits, loss that is counted, start and stop."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamspec.core.errors import DependencyUnavailable, InternalError
from streamspec.core.interfaces import ClosableSource
from streamspec.core.segment import CONTENT_MESSAGES, PACKET_TRUNCATED, SlotLayout
from streamspec.sources.udp import UdpConfig, UdpSource
from streamspec.sources.udp_gathering import Gathering
from streamspec.sources.udp_socket import ReceiveBatch, bind_datagram_socket, grow_receive_buffer, read_socket_drops
from streamspec.testing.clock import ManualClock
from streamspec.testing.intake import RecordingIntake

LAYOUT = SlotLayout(payload_bytes=64 * 1024, packet_capacity=64, meta_bytes=256, output_bytes=4096)
HOUR = 3600.0


@contextmanager
def new_intake(**options: Any) -> Iterator[RecordingIntake]:
    intake = RecordingIntake(**{"layout": LAYOUT, "slots": 16, **options})
    try:
        yield intake
    finally:
        intake.close()


@asynccontextmanager
async def running(intake: RecordingIntake, **options: Any) -> AsyncIterator[UdpSource]:
    """An open source whose ``run`` is under way; stopped and closed at the end, when that has not happened."""
    source = UdpConfig(**{"type": "udp", "bind": "127.0.0.1:0", "linger": HOUR, **options}).build("packets")
    await source.open(intake)
    run = asyncio.create_task(source.run())
    try:
        yield source
    finally:
        await source.stop()
        await asyncio.wait_for(run, 5.0)
        await source.close()


@contextmanager
def sender(source: UdpSource) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in source.address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.connect(source.address)
        yield one


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(5.0):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def key_of(one: socket.socket) -> bytes:
    host, port = one.getsockname()[:2]
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()


def received_from(intake: RecordingIntake, key: bytes) -> list[bytes]:
    return [message for c in intake.committed if c.key == key for message in c.messages()]


# -- gathering --------------------------------------------------------------------------------
@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
async def test_two_peers_interleaved_keep_their_own_segments_in_order(bind: str) -> None:
    with new_intake() as intake:
        async with running(intake, bind=bind) as source:
            with sender(source) as one, sender(source) as two:
                for i in range(20):
                    one.send(b"one %d" % i)
                    two.send(b"two %d" % i)
                await source.stop()
                keys = key_of(one), key_of(two)
        assert [c.key for c in intake.committed] == list(keys)
        assert received_from(intake, keys[0]) == [b"one %d" % i for i in range(20)]
        assert received_from(intake, keys[1]) == [b"two %d" % i for i in range(20)]


async def test_the_header_and_the_packet_table_describe_the_segment() -> None:
    before_ns = time.time_ns()
    with new_intake(clock=ManualClock(77)) as intake:
        async with running(intake) as source:
            with sender(source) as one:
                one.send(b"ab")
                one.send(b"cde")
                await source.stop()
        (segment,) = intake.committed
        header, packets = segment.header, segment.packets
        assert (header["length"], header["packets"], header["content"]) == (5, 2, CONTENT_MESSAGES)
        assert header["arrival_ns"] == 77
        assert before_ns <= header["timestamp_ns"] == packets["timestamp_ns"][0] <= time.time_ns()
        assert packets["timestamp_ns"][0] <= packets["timestamp_ns"][1]
        assert packets["offset"].tolist() == [0, 2]
        assert packets["captured_bytes"].tolist() == packets["wire_bytes"].tolist() == [2, 3]
        assert packets["flags"].tolist() == [0, 0]
        assert segment.payload == b"abcde"


async def test_a_segment_closes_exactly_at_its_size() -> None:
    with new_intake() as intake:
        async with running(intake, segment_bytes=30) as source:
            with sender(source) as one:
                for _ in range(3):
                    one.send(bytes(10))
                (full,) = await intake.wait_for(1)
                assert full.header["length"] == 30
                one.send(bytes(25))
                one.send(bytes(6))  # does not fit behind the 25 bytes
                await intake.wait_for(2)
        assert [c.header["length"] for c in intake.committed] == [30, 25, 6]


async def test_a_segment_closes_when_its_packet_table_is_full() -> None:
    with new_intake() as intake:
        async with running(intake) as source:
            with sender(source) as one:
                for _ in range(LAYOUT.packet_capacity + 1):
                    one.send(b"x")
                await intake.wait_for(1)
        assert [c.header["packets"] for c in intake.committed] == [LAYOUT.packet_capacity, 1]


async def test_segment_bytes_is_held_to_the_slot() -> None:
    layout = SlotLayout(payload_bytes=128, packet_capacity=64, meta_bytes=256, output_bytes=4096)
    with new_intake(layout=layout) as intake:
        async with running(intake, segment_bytes="1 MiB") as source:
            with sender(source) as one:
                one.send(bytes(100))
                one.send(bytes(100))
                one.send(bytes(200))
                await intake.wait_for(3)
        assert [c.header["length"] for c in intake.committed] == [100, 100, 128]
        assert intake.tally.counts == {"truncated_datagrams": 1}


async def test_empty_datagrams_are_packets_of_no_bytes() -> None:
    with new_intake() as intake:
        async with running(intake) as source:
            with sender(source) as one:
                for content in (b"", b"x", b""):
                    one.send(content)
                await source.stop()
        (segment,) = intake.committed
        assert segment.messages() == [b"", b"x", b""]


async def test_the_largest_datagram_fits() -> None:
    content = os.urandom(65_507)
    with new_intake() as intake:
        async with running(intake) as source:
            with sender(source) as one:
                one.send(content)
                one.send(b"next")
                await source.stop()
        assert [c.messages() for c in intake.committed] == [[content, b"next"]]


async def test_a_longer_datagram_is_cut_flagged_and_counted() -> None:
    with new_intake() as intake:
        async with running(intake, max_datagram_bytes=10) as source:
            with sender(source) as one:
                one.send(b"0123456789abcdef")
                one.send(b"0123456789")
                await source.stop()
        (segment,) = intake.committed
        assert segment.messages() == [b"0123456789", b"0123456789"]
        assert segment.packets["wire_bytes"].tolist() == [16, 10]
        assert segment.packets["flags"].tolist() == [PACKET_TRUNCATED, 0]
        assert intake.tally.counts == {"truncated_datagrams": 1}


async def test_ipv4_peers_of_a_socket_of_both_families_are_called_by_their_ipv4_address() -> None:
    with new_intake() as intake:
        async with running(intake, bind="[::]:0") as source:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.connect(("127.0.0.1", source.address[1]))
                one.send(b"x")
                await source.stop()
                assert [c.key for c in intake.committed or await intake.wait_for(1)] == [key_of(one)]


# -- linger -----------------------------------------------------------------------------------
async def test_linger_commits_what_is_old_enough_and_leaves_the_rest() -> None:
    clock = ManualClock()
    with new_intake(clock=clock) as intake:
        async with running(intake, linger="100 s") as source:
            with sender(source) as one, sender(source) as two:
                one.send(b"old")
                await until(lambda: intake.arena.free_slots == 15)
                clock.advance(60)
                two.send(b"young")
                await until(lambda: intake.arena.free_slots == 14)
                source.expire()
                assert not intake.committed
                clock.advance(39.999)
                source.expire()
                assert not intake.committed
                clock.advance(0.001)
                source.expire()
                assert [c.payload for c in intake.committed] == [b"old"]
                clock.advance(60)
                source.expire()
                assert [c.payload for c in intake.committed] == [b"old", b"young"]


async def test_the_timer_expires_segments_and_is_armed_again() -> None:
    clock = ManualClock()
    with new_intake(clock=clock) as intake:
        async with running(intake, linger="10 ms") as source:
            with sender(source) as one:
                for count in (1, 2):
                    one.send(b"x")
                    await until(lambda: intake.arena.free_slots == 15)
                    clock.advance(0.01)
                    await intake.wait_for(count)


async def test_without_linger_each_wakeup_commits() -> None:
    with new_intake() as intake:
        async with running(intake, linger=0) as source:
            with sender(source) as one:
                one.send(b"x")
                await intake.wait_for(1)


# -- many peers, full arena -------------------------------------------------------------------
async def test_many_peers_close_the_oldest_early_and_leave_the_arena_to_others() -> None:
    with new_intake(slots=16) as intake:
        async with running(intake) as source:
            peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(300)]
            for i, one in enumerate(peers):
                one.sendto(b"%d" % i, source.address)
                one.sendto(b"again %d" % i, source.address)
            await intake.wait_for(296)
            assert intake.arena.free_slots == 12
            await source.stop()
            await until(lambda: len(intake.committed) == 300)
            assert [c.messages() for c in intake.committed] == [[b"%d" % i, b"again %d" % i] for i in range(300)]
            for one in peers:
                one.close()
        assert intake.arena.free_slots == 16
        assert not intake.tally.counts


async def test_the_bound_of_open_segments_can_be_configured() -> None:
    with new_intake(slots=16) as intake:
        async with running(intake, max_open_segments=1) as source:
            with sender(source) as one, sender(source) as two:
                for _ in range(3):
                    one.send(b"1")
                    two.send(b"2")
                await intake.wait_for(5)
        assert [c.payload for c in intake.committed] == [b"1", b"2"] * 3


async def test_without_a_slot_datagrams_are_dropped_and_counted() -> None:
    with new_intake(slots=4) as intake:
        taken = [intake.acquire() for _ in range(3)]
        async with running(intake, max_open_segments=3) as source:
            with sender(source) as one, sender(source) as two:
                one.send(b"kept")
                for _ in range(5):
                    two.send(b"lost")
                one.send(b"kept too")
                await until(lambda: intake.tally["arena_full_drops"] == 5)
                for slot in taken:
                    intake.release(slot)
                two.send(b"room again")
                await source.stop()
        assert sorted(c.messages() for c in intake.committed) == [[b"kept", b"kept too"], [b"room again"]]
        assert intake.tally.counts == {"arena_full_drops": 5}
        assert intake.arena.free_slots == 4


async def test_a_stuck_pipeline_sheds_the_oldest() -> None:
    with new_intake(slots=4, hold=True) as intake:
        async with running(intake, segment_bytes=1) as source:
            with sender(source) as one:
                for i in range(10):
                    one.send(b"%d" % i)
                await intake.wait_for(10)
        assert intake.shed_segments == 6
        assert not intake.tally.counts
        intake.free_held()


# -- drops of the socket ----------------------------------------------------------------------
async def test_datagrams_that_the_socket_dropped_are_counted() -> None:
    sent = 500
    with new_intake(slots=64) as intake:
        source = UdpConfig(type="udp", bind="127.0.0.1:0", linger=HOUR, receive_buffer_bytes="4 KiB").build("packets")
        await source.open(intake)
        with sender(source) as one:
            for _ in range(sent):
                one.send(bytes(100))
        run = asyncio.create_task(source.run())
        await until(lambda: intake.arena.free_slots < 64)
        source.expire()  # nothing came after the drops, so only asking the socket tells
        drops = intake.tally["socket_drops"]
        assert drops > 0
        await source.stop()
        await run
        await source.close()
        assert sum(len(c.packets) for c in intake.committed) + drops == sent
        assert intake.tally.counts == {"socket_drops": drops}


async def test_a_datagram_that_follows_drops_reports_them() -> None:
    with new_intake(slots=64) as intake:
        source = UdpConfig(type="udp", bind="127.0.0.1:0", linger=HOUR, receive_buffer_bytes="4 KiB").build("packets")
        await source.open(intake)
        with sender(source) as one:
            for _ in range(500):
                one.send(bytes(100))
            run = asyncio.create_task(source.run())
            await until(lambda: intake.arena.free_slots < 64)
            one.send(b"after")
            await until(lambda: intake.tally["socket_drops"] > 0)
        await source.stop()
        await run
        await source.close()
        assert sum(len(c.packets) for c in intake.committed) + intake.tally["socket_drops"] == 501


def test_readings_of_the_drops_may_come_late_and_wrap_round() -> None:
    with new_intake() as intake, receiving(intake, 100) as (_, gathering):
        for reading in (0xFFFFFFF0, 5, 0xFFFFFFF8, 5, 6):
            gathering.count_socket_drops(reading)
        # The first is an invalid jump of more than half the circle, then 5 (new), a late one, again, 6 (new).
        assert intake.tally["socket_drops"] == 6


async def test_a_smaller_receive_buffer_than_asked_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamspec.sources.udp_socket.SO_RCVBUFFORCE", socket.SO_RCVBUF)  # as without a capability
    with new_intake() as intake:
        async with running(intake, receive_buffer_bytes="1 GiB") as source:
            assert 0 < source.granted_receive_buffer_bytes < 1 << 30
        async with running(intake, receive_buffer_bytes="64 KiB") as source:
            assert source.granted_receive_buffer_bytes == 64 * 1024


class _Unprivileged(socket.socket):
    """As a process without CAP_NET_ADMIN sees it."""

    def setsockopt(self, level: int, option: int, value: Any) -> None:  # type: ignore[override]
        if option == 33:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        super().setsockopt(level, option, value)


def test_without_the_capability_the_buffer_is_asked_for_within_the_limit() -> None:
    with _Unprivileged(socket.AF_INET, socket.SOCK_DGRAM) as one:
        assert grow_receive_buffer(one, 100_000) == 100_000


# -- start and stop ---------------------------------------------------------------------------
async def test_stop_takes_in_what_the_socket_holds_and_nothing_more() -> None:
    with new_intake(slots=64) as intake:
        source = UdpConfig(type="udp", bind="127.0.0.1:0", linger=HOUR).build("packets")
        await source.open(intake)
        with sender(source) as one:
            for i in range(3000):
                one.send(b"%d" % i)
            await source.stop()
            await source.stop()
            await source.run()
            one.send(b"too late")
            assert received_from(intake, key_of(one)) == [b"%d" % i for i in range(3000)]
        await source.close()
        await source.close()
        assert intake.arena.free_slots == 64


async def test_a_sender_that_goes_on_cannot_hold_the_stop_up() -> None:
    with new_intake(slots=64) as intake:
        async with running(intake) as source:
            with sender(source) as one:
                one.send(b"first")
                await until(lambda: intake.arena.free_slots == 63)
                await source.stop()
                await until(lambda: one.send(b"more") > 0 and len(intake.committed) > 0)


async def test_close_releases_the_port() -> None:
    with new_intake() as intake:
        async with running(intake) as source:
            address = source.address
            assert isinstance(source, ClosableSource)
            assert not source.can_wait
        async with running(intake, bind=f"127.0.0.1:{address[1]}") as source:
            assert source.address == address


async def test_cancelling_run_commits_what_is_open() -> None:
    with new_intake() as intake:
        source = UdpConfig(type="udp", bind="127.0.0.1:0", linger=HOUR).build("packets")
        await source.open(intake)
        run = asyncio.create_task(source.run())
        with sender(source) as one:
            one.send(b"x")
            await until(lambda: intake.arena.free_slots == 15)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await source.close()
        assert [c.payload for c in intake.committed] == [b"x"]


async def test_an_intake_that_fails_ends_run_with_its_error() -> None:
    with new_intake() as intake:
        source = UdpConfig(type="udp", bind="127.0.0.1:0", linger=HOUR).build("packets")
        await source.open(intake)
        intake.acquire_by_shedding = lambda: 1 // 0  # type: ignore[method-assign]
        run = asyncio.create_task(source.run())
        with sender(source) as one:
            one.send(b"x")
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(run, 5.0)
        await source.close()


async def test_a_broken_socket_ends_run_and_commits_what_is_open() -> None:
    with new_intake() as intake:
        source = UdpConfig(type="udp", bind="127.0.0.1:0", linger=HOUR).build("packets")
        await source.open(intake)
        run = asyncio.create_task(source.run())
        with sender(source) as one:
            one.send(b"x")
            await until(lambda: intake.arena.free_slots == 15)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), source._require_open().socket.fileno())
            await source.stop()
            with pytest.raises(DependencyUnavailable, match=r"sources\.packets: the UDP socket broke"):
                await asyncio.wait_for(run, 5.0)
        await source.close()
        assert [c.payload for c in intake.committed] == [b"x"]


async def test_run_before_open_is_our_own_bug() -> None:
    with pytest.raises(InternalError, match=r"sources\.packets"):
        await UdpConfig(type="udp", bind="127.0.0.1:0").build("packets").run()


@pytest.fixture(scope="module")
def used_uvloop() -> None:
    """libuv makes a pipe for signals with its first loop and keeps it for good."""
    uvloop.new_event_loop().close()


@pytest.mark.usefixtures("used_uvloop")
def test_it_works_on_uvloop() -> None:
    async def exchange(intake: RecordingIntake) -> None:
        async with running(intake, linger="1 ms", segment_bytes=1000) as source:
            with sender(source) as one:
                for _ in range(5):
                    one.send(bytes(400))
                await intake.wait_for(2)
                assert isinstance(intake.clock, ManualClock)
                intake.clock.advance(0.001)
                await intake.wait_for(3)

    with new_intake() as intake, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(exchange(intake))


# -- what can be missing ----------------------------------------------------------------------
async def refused(**options: Any) -> str:
    with new_intake() as intake:
        source = UdpConfig(**{"type": "udp", "bind": "127.0.0.1:0", **options}).build("packets")
        with pytest.raises(DependencyUnavailable) as caught:
            await source.open(intake)
        await source.close()
    return str(caught.value)


async def test_a_port_in_use_says_so_and_what_to_do() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        message = await refused(bind=f"127.0.0.1:{port}")
    assert message.startswith(f"sources.packets.bind: the UDP port is in use (got '127.0.0.1:{port}')")
    assert f"ss -ulnp 'sport = :{port}'" in message


async def test_a_shared_port_needs_the_consent_of_both() -> None:
    with new_intake() as intake:
        async with running(intake, reuse_port=True) as first:
            bind = f"127.0.0.1:{first.address[1]}"
            async with running(intake, bind=bind, reuse_port=True) as second:
                assert second.address == first.address
            assert "in use" in await refused(bind=bind)


async def test_an_address_of_another_host_is_refused() -> None:
    assert "no interface of this host has that address" in await refused(bind="192.0.2.1:9000")


async def test_an_unknown_scope_is_refused() -> None:
    assert "cannot bind" in await refused(bind="[fe80::1%nosuch0]:9000")


async def test_an_unknown_interface_is_refused_with_the_names_there_are() -> None:
    message = await refused(bind="0.0.0.0:0", multicast_group="239.1.2.3", interface="nosuch0")
    assert message.startswith("sources.packets.interface: no such network interface (got 'nosuch0'); allowed: ")
    assert "lo" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bind": "9000"}, "127.0.0.1:9000"),
        ({"bind": "127.0.0.1:70000"}, "0 to 65535|127.0.0.1:9000"),
        ({"bind": "0.0.0.0:1", "interface": "lo"}, "multicast_group"),
        ({"bind": "0.0.0.0:1", "multicast_group": "10.0.0.1"}, "no multicast address"),
        ({"bind": "0.0.0.0:1", "multicast_group": "ff02::1"}, "not of the family"),
        ({"bind": "[::]:1", "multicast_group": "239.0.0.1"}, "not of the family"),
        ({"bind": "0.0.0.0:1", "multicast_group": "x"}, "IPv4 or IPv6"),
        ({"bind": "0.0.0.0:1", "max_datagram_bytes": 70000}, "65535"),
        ({"bind": "0.0.0.0:1", "lingers": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UdpConfig(type="udp", **options)


# -- multicast --------------------------------------------------------------------------------
async def through_multicast(bind: str, group: str, interface: str, choose: Callable[[socket.socket], None]) -> bytes:
    """What arrives of a datagram sent to the group over the interface that ``choose`` sets."""
    with new_intake() as intake:
        async with running(intake, bind=bind, multicast_group=group, interface=interface, linger=0) as source:
            with socket.socket(socket.AF_INET6 if ":" in group else socket.AF_INET, socket.SOCK_DGRAM) as one:
                choose(one)
                one.sendto(b"to all", (group, source.address[1]))
            (segment,) = await intake.wait_for(1)
    return segment.payload


async def test_an_ipv4_multicast_group_is_joined_on_an_interface() -> None:
    def choose(one: socket.socket) -> None:
        request = struct.pack("@4s4si", b"", b"", socket.if_nametoindex("lo"))
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)

    assert await through_multicast("0.0.0.0:0", "239.255.77.1", "lo", choose) == b"to all"


@pytest.mark.root
@pytest.mark.namespace
def test_an_ipv6_multicast_group_is_joined_on_an_interface() -> None:
    """Loopback routes no IPv6 multicast, so this needs an interface of its own: a thread in its own namespace."""

    def choose(one: socket.socket) -> None:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("test0"))

    def in_namespace() -> bytes:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "unshare")
        for command in (
            "link add name test0 type veth peer name test1",
            "link set test0 addrgenmode none",
            "link set test1 up",
            "link set test0 up",
            "address add fe80::1/64 dev test0 nodad",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        return asyncio.run(through_multicast("[::]:0", "ff02::7701", "test0", choose))

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(in_namespace).result() == b"to all"


# -- properties -------------------------------------------------------------------------------
@contextmanager
def receiving(
    intake: RecordingIntake, segment_bytes: int, max_open: int | None = None, batch_datagrams: int = 16
) -> Iterator[tuple[socket.socket, Gathering]]:
    """A bound socket and its gathering, without an event loop; :func:`receive_all` moves the datagrams."""
    with bind_datagram_socket("127.0.0.1", 0, reuse_port=False, where="test") as bound:
        yield bound, Gathering(intake, ReceiveBatch(bound, batch_datagrams, 2000), segment_bytes, max_open)


def receive_all(gathering: Gathering) -> None:
    while count := gathering._batch.receive():
        gathering.take(count)


def plain_segments(
    datagrams: list[tuple[int, bytes]], segment_bytes: int, segment_packets: int, max_open: int
) -> list[tuple[int, list[bytes]]]:
    """What gathering means, in plain Python: segments as ``(peer, messages)`` in order of commit."""
    done: list[tuple[int, list[bytes]]] = []
    open_ones: dict[int, list[bytes]] = {}
    for peer, content in datagrams:
        content = content[:segment_bytes]
        if peer in open_ones and sum(map(len, open_ones[peer])) + len(content) > segment_bytes:
            done.append((peer, open_ones.pop(peer)))
        if peer not in open_ones:
            if len(open_ones) == max_open:
                oldest = next(iter(open_ones))
                done.append((oldest, open_ones.pop(oldest)))
            open_ones[peer] = []
        open_ones[peer].append(content)
        if sum(map(len, open_ones[peer])) == segment_bytes or len(open_ones[peer]) == segment_packets:
            done.append((peer, open_ones.pop(peer)))
    return done + list(open_ones.items())


DATAGRAMS = st.lists(st.tuples(st.integers(0, 7), st.binary(max_size=120)), max_size=120)


@settings(deadline=None, max_examples=80)
@given(
    datagrams=DATAGRAMS, segment_bytes=st.integers(120, 400), max_open=st.integers(1, 8), capacity=st.integers(1, 20)
)
def test_gathering_equals_its_plain_form(
    datagrams: list[tuple[int, bytes]], segment_bytes: int, max_open: int, capacity: int
) -> None:
    layout = SlotLayout(payload_bytes=512, packet_capacity=capacity, meta_bytes=64, output_bytes=64)
    peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(8)]
    with (
        new_intake(layout=layout, slots=16) as intake,
        receiving(intake, segment_bytes, max_open) as (bound, gathering),
    ):
        for one in peers:
            one.connect(bound.getsockname())
        for peer, content in datagrams:
            peers[peer].send(content)
        receive_all(gathering)
        gathering.close_until()
        names = {key_of(one): i for i, one in enumerate(peers)}
        found = [(names[c.key], c.messages()) for c in intake.committed]
        assert found == plain_segments(datagrams, segment_bytes, capacity, max_open)
        assert intake.arena.free_slots == 16
        assert gathering.open_segments == 0
    for one in peers:
        one.close()


def test_an_endless_stream_of_new_peers_leaves_the_table_clean() -> None:
    with new_intake(slots=64) as intake, receiving(intake, 1000, batch_datagrams=64) as (bound, gathering):
        for _ in range(40):
            peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(50)]
            for one in peers:
                one.sendto(b"x", bound.getsockname())
            receive_all(gathering)
            for one in peers:
                one.close()
        assert gathering.open_segments == gathering.max_open == 16
        assert (gathering._table >= 0).sum() == 16
        gathering.close_until()
        assert (gathering._table >= 0).sum() == 0
        # A later peer may get the port of one whose segment is still open, and is the same peer then.
        assert sum(len(c.packets) for c in intake.committed) == 2000
        assert read_socket_drops(bound) == 0
