"""The af_packet source on real interfaces in namespaces: what arrives, what is lost and counted, start and stop."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from streamspec.core.clock import SystemClock
from streamspec.core.errors import DependencyUnavailable, InternalError
from streamspec.core.interfaces import Clock, ClosableSource
from streamspec.core.segment import LINK_ETHERNET, LINK_RAW_IP, PACKET, PACKET_TRUNCATED, SlotLayout
from streamspec.sources.af_packet import AfPacketConfig, AfPacketSource
from streamspec.sources.af_packet_kernels import ENOUGH, FULL, NOTHING, WALK, take_packets
from streamspec.sources.registry import SourceConfig
from streamspec.testing.clock import ManualClock
from streamspec.testing.intake import RecordingIntake
from streamspec.testing.namespaces import add_pair, inside, ip, network_namespace
from streamspec.testing.waiting import until

KIB = 1024
LAYOUT = SlotLayout(payload_bytes=64 * KIB, packet_capacity=1024, meta_bytes=256, output_bytes=64)
ADDRESSES = bytes.fromhex("0200000000020200000000ff")
SMALL_RING: dict[str, Any] = {"block_bytes": 64 * KIB, "blocks": 8}


def namespaced(test: Any) -> Any:
    """Marks a test that captures in a namespace of its own."""
    return pytest.mark.root(pytest.mark.namespace(test))


def frame(number: int, size: int = 60, tag: bytes = b"") -> bytes:
    """An Ethernet frame of an experimental type that carries its number."""
    return ADDRESSES + tag + b"\x88\xb5" + struct.pack("!I", number) + bytes(size - 18)


def numbers(intake: RecordingIntake) -> list[int]:
    """Numbers of the frames that arrived, in order."""
    return [struct.unpack("!I", m[14:18])[0] for s in intake.committed for m in s.messages()]


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A namespace with a pair of interfaces, ``left`` and ``right``."""
    with network_namespace() as name:
        add_pair(name, "left", "right")
        yield name


@pytest.fixture
def sender(namespace: str) -> Iterator[socket.socket]:
    """Sends frames out of ``left``, so that they arrive at ``right``."""
    with inside(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
        made.bind(("left", 0))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        yield made


@asynccontextmanager
async def capturing(
    namespace: str,
    *,
    layout: SlotLayout = LAYOUT,
    slots: int = 64,
    hold: bool = False,
    clock: Clock | None = None,
    **fields: Any,
) -> AsyncIterator[tuple[AfPacketSource, RecordingIntake]]:
    """A running source; stopped and closed afterwards, and nothing of it is left."""
    intake = RecordingIntake(slots=slots, layout=layout, clock=clock or SystemClock(), hold=hold)
    source = AfPacketConfig(type="af_packet", **{"interface": "right", **SMALL_RING, **fields}).build("wire")
    with inside(namespace):
        await source.open(intake)
    running = asyncio.ensure_future(source.run())
    try:
        yield source, intake
    finally:
        await source.stop()
        await asyncio.wait_for(running, 5)
        await source.close()
        await source.close()
        intake.free_held()
        assert intake.arena.free_slots == slots
        intake.close()


# -- configuration ----------------------------------------------------------------------------
def test_the_union_of_sources_knows_it() -> None:
    config = TypeAdapter(SourceConfig).validate_python(
        {"type": "af_packet", "interface": "eth0", "block_bytes": "256 KiB", "fanout": {"group": 7, "mode": "lb"}}
    )
    assert isinstance(config, AfPacketConfig)
    source = config.build("wire")
    assert not source.can_wait
    assert isinstance(source, ClosableSource)


@pytest.mark.parametrize(
    "fields",
    [
        {"block_bytes": 20_000},
        {"blocks": 1},
        {"interface": "much-too-long-a-name"},
        {"fanout": {"group": 70_000}},
        {"fanout": {"group": 1, "mode": "random"}},
        {"block_timeout": 0},
        {"snap_bytes": 13},
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AfPacketConfig(type="af_packet", **{"interface": "eth0", **fields})


async def test_running_before_opening_is_our_mistake() -> None:
    with pytest.raises(InternalError):
        await AfPacketConfig(type="af_packet", interface="lo").build("wire").run()


# -- opening ----------------------------------------------------------------------------------
async def open_fails(**fields: Any) -> DependencyUnavailable:
    intake = RecordingIntake(layout=LAYOUT)
    source = AfPacketConfig(type="af_packet", **fields).build("wire")
    with pytest.raises(DependencyUnavailable) as caught:
        await source.open(intake)
    await source.close()
    intake.close()
    assert caught.value.next_step
    return caught.value


@pytest.mark.root
async def test_an_unknown_interface_is_said_at_once() -> None:
    error = await open_fails(interface="nowhere0")
    assert error.where == "sources.wire.interface"
    assert error.allowed is not None
    assert "lo" in error.allowed


@contextmanager
def without_capability(number: int) -> Iterator[None]:
    """This thread does not use the capability (capset(2): header, then effective, permitted, inheritable)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~(1 << number)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


@pytest.mark.root
async def test_the_missing_capability_is_said_at_once() -> None:
    with without_capability(13):  # CAP_NET_RAW
        error = await open_fails(interface="lo")
    assert "CAP_NET_RAW" in str(error)


@namespaced
async def test_a_fanout_group_of_another_mode_is_said_at_once(namespace: str) -> None:
    async with capturing(namespace, fanout={"group": 5, "mode": "hash"}):
        with inside(namespace):
            error = await open_fails(interface="right", fanout={"group": 5, "mode": "lb"})
    assert error.where == "sources.wire.fanout.group"


# -- receiving --------------------------------------------------------------------------------
@namespaced
async def test_every_packet_arrives_in_order(namespace: str, sender: socket.socket) -> None:
    async with capturing(namespace) as (_, intake):
        for number in range(5000):
            sender.send(frame(number, 60 + number % 1400))
            if number % 64 == 0:
                await asyncio.sleep(0)
        await intake.wait_for_packets(5000)
        assert numbers(intake) == list(range(5000))
        assert [len(m) for s in intake.committed for m in s.messages()] == [60 + n % 1400 for n in range(5000)]
        assert intake.tally.counts == {}


@namespaced
async def test_headers_say_what_and_when(namespace: str, sender: socket.socket) -> None:
    clock = SystemClock()
    async with capturing(namespace) as (_, intake):
        before_ns, before_mono_ns = clock.time_ns(), clock.monotonic_ns()
        sender.send(frame(1))
        (segment,) = await intake.wait_for(1)
        after_ns, after_mono_ns = clock.time_ns(), clock.monotonic_ns()
    assert segment.key == b"right"
    assert segment.header["content"] == 0
    assert segment.header["link_type"] == LINK_ETHERNET
    assert segment.header["length"] == len(segment.payload) == 60
    assert before_ns <= segment.header["timestamp_ns"] == segment.packets["timestamp_ns"][0] <= after_ns
    # Arrival is when the kernel had it, not when its block was handed over.
    assert before_mono_ns - 1_000_000 <= segment.header["arrival_ns"] <= after_mono_ns
    assert segment.packets["wire_bytes"][0] == 60


@namespaced
@pytest.mark.parametrize("tag", ["81000fa5", "88a80064", "8100e001"])
async def test_vlan_tags_are_put_back(namespace: str, sender: socket.socket, tag: str) -> None:
    tagged = frame(7, 80, bytes.fromhex(tag))
    double = frame(8, 80, bytes.fromhex("88a80001") + bytes.fromhex(tag))
    async with capturing(namespace) as (_, intake):
        for sent in (tagged, frame(9), double):
            sender.send(sent)
        await intake.wait_for_packets(3)
    messages = [m for s in intake.committed for m in s.messages()]
    assert messages == [tagged, frame(9), double]
    rows = np.concatenate([s.packets for s in intake.committed])
    assert rows["wire_bytes"].tolist() == [len(m) for m in messages]
    assert not rows["flags"].any()


@namespaced
async def test_snapped_packets_keep_their_length_on_the_wire(namespace: str, sender: socket.socket) -> None:
    async with capturing(namespace, snap_bytes=64) as (_, intake):
        sender.send(frame(1, 1000))
        sender.send(frame(2, 60))
        await intake.wait_for_packets(2)
    rows = np.concatenate([s.packets for s in intake.committed])
    assert rows["captured_bytes"].tolist() == [64, 60]
    assert rows["wire_bytes"].tolist() == [1000, 60]
    assert rows["flags"].tolist() == [PACKET_TRUNCATED, 0]


@namespaced
async def test_packets_longer_than_a_slot_are_cut_and_counted(namespace: str, sender: socket.socket) -> None:
    layout = SlotLayout(payload_bytes=512, packet_capacity=16, meta_bytes=64, output_bytes=64)
    async with capturing(namespace, layout=layout) as (_, intake):
        for number, size in enumerate([60, 1400, 60, 512, 513]):
            sender.send(frame(number, size))
        await intake.wait_for_packets(5)
    rows = np.concatenate([s.packets for s in intake.committed])
    assert numbers(intake) == [0, 1, 2, 3, 4]
    assert rows["captured_bytes"].tolist() == [60, 512, 60, 512, 512]
    assert rows["wire_bytes"].tolist() == [60, 1400, 60, 512, 513]
    assert intake.tally.counts == {"oversized_packets": 2}


@namespaced
async def test_segments_keep_to_their_size(namespace: str, sender: socket.socket) -> None:
    async with capturing(namespace, segment_bytes=1000, linger=3600) as (source, intake):
        for number in range(100):
            sender.send(frame(number, 100))
        await intake.wait_for(9)
        await source.stop()
        await until(lambda: len(numbers(intake)) == 100)
    assert {len(s.packets) for s in intake.committed} == {10}


@namespaced
async def test_a_segment_lingers(namespace: str, sender: socket.socket) -> None:
    clock = ManualClock()
    async with capturing(namespace, clock=clock, linger=10, block_timeout=0.001) as (source, intake):
        for number in range(3):
            sender.send(frame(number))
            await until(lambda number=number: source.open_packets == number + 1)
        clock.advance(9.9)
        source.expire()
        assert intake.committed == []
        clock.advance(0.2)
        source.expire()
        assert numbers(intake) == [0, 1, 2]
        assert source.open_packets == 0
    assert len(intake.committed) == 1


@namespaced
async def test_a_loopback_packet_is_seen_once_unless_asked(namespace: str) -> None:
    ip(namespace, "link", "set", "lo", "up")
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        for fields, times in (({}, 1), ({"outgoing": True}, 2)):
            async with capturing(namespace, interface="lo", **fields) as (source, intake):
                peer.sendto(b"to myself", peer.getsockname())
                await intake.wait_for_packets(times)
                await source.stop()
            messages = [m for s in intake.committed for m in s.messages()]
            assert [m[-9:] for m in messages] == [b"to myself"] * times
            assert {int(s.header["link_type"]) for s in intake.committed} == {LINK_ETHERNET}


@namespaced
async def test_what_the_host_sends_is_taken_unless_refused(namespace: str, sender: socket.socket) -> None:
    for fields, count in (({}, 1), ({"outgoing": False}, 0)):
        async with capturing(namespace, interface="left", **fields) as (_, intake):
            sender.send(frame(1))
        assert len(numbers(intake)) == count


@namespaced
async def test_an_interface_without_addresses_gives_raw_ip(namespace: str) -> None:
    with inside(namespace):
        tunnel = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF: tun, no header
            ip(namespace, "link", "set", "tun0", "up")
            async with capturing(namespace, interface="tun0") as (_, intake):
                packet = bytes.fromhex("4500001c000000004011000001020304050607080001000200080000")
                os.write(tunnel, packet)
                (segment,) = await intake.wait_for(1)
            assert segment.messages() == [packet]
            assert segment.header["link_type"] == LINK_RAW_IP
        finally:
            os.close(tunnel)


# -- loss -------------------------------------------------------------------------------------
@namespaced
async def test_kernel_drops_are_counted(namespace: str, sender: socket.socket) -> None:
    async with capturing(namespace, block_bytes=16 * KIB, blocks=2) as (_, intake):
        for number in range(1000):
            sender.send(frame(number, 500))  # nobody reads meanwhile
    assert 0 < len(numbers(intake)) < 1000
    assert len(numbers(intake)) + intake.tally["kernel_drops"] == 1000
    assert intake.tally["ring_freezes"] > 0
    assert numbers(intake) == sorted(numbers(intake))


@namespaced
async def test_it_sheds_to_get_room(namespace: str, sender: socket.socket) -> None:
    async with capturing(namespace, slots=2, hold=True) as (_, intake):
        for number in range(10):
            sender.send(frame(number))
            await until(lambda number=number: numbers(intake)[-1:] == [number])
        assert intake.shed_segments == 8
    assert intake.tally.counts == {}


@namespaced
async def test_without_room_packets_wait_in_the_ring(
    namespace: str, sender: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with capturing(namespace, slots=2) as (_, intake):
        taken = [intake.acquire(), intake.acquire()]  # nothing that could be shed
        asked, ask = [], intake.acquire_by_shedding
        monkeypatch.setattr(intake, "acquire_by_shedding", lambda: asked.append(1) or ask())
        for number in range(100):
            sender.send(frame(number))
        await until(lambda: len(asked) > 3)
        assert intake.committed == []
        for slot in taken:
            intake.release(slot)
        await intake.wait_for_packets(100)
        assert numbers(intake) == list(range(100))
    assert intake.tally.counts == {}


@namespaced
@pytest.mark.slow
async def test_what_is_left_in_the_ring_at_the_stop_is_counted(namespace: str, sender: socket.socket) -> None:
    intake = RecordingIntake(slots=2, layout=LAYOUT, clock=SystemClock())
    source = AfPacketConfig(type="af_packet", interface="right", **SMALL_RING).build("wire")
    with inside(namespace):
        await source.open(intake)
    taken = [intake.acquire(), intake.acquire()]
    running = asyncio.ensure_future(source.run())
    for number in range(100):
        sender.send(frame(number))
    await source.stop()
    await asyncio.wait_for(running, 5)
    await source.close()
    assert intake.tally.counts == {"arena_full_drops": 100}
    for slot in taken:
        intake.release(slot)
    intake.close()


@namespaced
async def test_a_stop_takes_what_the_ring_holds(namespace: str, sender: socket.socket) -> None:
    async with capturing(namespace, block_timeout=0.2) as (source, intake):
        for number in range(300):
            sender.send(frame(number))
        await source.stop()
        await source.stop()
    assert numbers(intake) == list(range(300))


# -- sharing ----------------------------------------------------------------------------------
def udp_frame(flow: int, number: int) -> bytes:
    """A UDP packet of a flow; fanout by hash keeps a flow together."""
    payload = struct.pack("!II", flow, number)
    udp = struct.pack("!HHHH", 1000 + flow, 53, 8 + len(payload), 0) + payload
    address = struct.pack("!4s4s", bytes([10, 0, 0, flow & 0xFF]), bytes([10, 0, 1, 1]))
    ipv4 = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + address
    return ADDRESSES + b"\x08\x00" + ipv4 + udp


@namespaced
@pytest.mark.parametrize("mode", ["hash", "lb", "cpu", "rollover"])
async def test_a_fanout_group_shares_without_loss(namespace: str, sender: socket.socket, mode: str) -> None:
    shared = {"fanout": {"group": 77, "mode": mode}}
    async with capturing(namespace, **shared) as (_, one), capturing(namespace, **shared) as (_, two):
        for number in range(50):
            for flow in range(32):
                sender.send(udp_frame(flow, number))
            await asyncio.sleep(0)
        await until(lambda: sum(len(s.packets) for i in (one, two) for s in i.committed) >= 1600)
        seen = [[struct.unpack("!II", m[42:50]) for s in i.committed for m in s.messages()] for i in (one, two)]
    assert sorted(seen[0] + seen[1]) == [(flow, number) for flow in range(32) for number in range(50)]
    if mode == "lb":
        assert len(seen[0]) == len(seen[1]) == 800
    if mode == "hash":
        assert {flow for flow, _ in seen[0]} & {flow for flow, _ in seen[1]} == set()
        assert seen[0]
        assert seen[1]


# -- interfaces that come and go --------------------------------------------------------------
@pytest.fixture(scope="module")
def used_uvloop() -> None:
    """libuv makes a pipe for signals with its first loop and keeps it for good."""
    uvloop.new_event_loop().close()


@namespaced
@pytest.mark.slow
@pytest.mark.usefixtures("used_uvloop")
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_interface_that_goes_down_and_up_is_captured_again(
    namespace: str, sender: socket.socket, new_loop: Any
) -> None:
    async def main() -> None:
        async with capturing(namespace) as (_, intake):
            sender.send(frame(1))
            await intake.wait_for_packets(1)
            ip(namespace, "link", "set", "right", "down")
            await until(lambda: intake.tally["interface_down"] == 1)
            ip(namespace, "link", "set", "right", "up")
            sender.send(frame(2))
            await intake.wait_for_packets(2)
            assert numbers(intake) == [1, 2]
            assert intake.tally.counts == {"interface_down": 1}

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@namespaced
async def test_an_interface_that_is_down_is_captured_once_it_is_up(namespace: str) -> None:
    ip(namespace, "link", "add", "near", "type", "veth", "peer", "name", "far")
    with inside(namespace):
        async with capturing(namespace, interface="far") as (_, intake):
            await until(lambda: intake.tally["interface_down"] == 1)
            ip(namespace, "link", "set", "near", "up")
            ip(namespace, "link", "set", "far", "up")
            await send_until_seen(intake, 1)
    ip(namespace, "link", "del", "near")


@namespaced
@pytest.mark.slow
async def test_an_interface_that_is_made_anew_is_captured_again(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamspec.sources.af_packet.POLL_SECONDS", 0.02)
    add_pair(namespace, "near", "far")
    with inside(namespace):  # as a service is in one namespace for good
        async with capturing(namespace, interface="far", fanout={"group": 9}) as (_, intake):
            await send_until_seen(intake, 1)
            ip(namespace, "link", "del", "far")
            await until(lambda: intake.tally["interface_lost"] == 1)
            add_pair(namespace, "near", "far")
            await send_until_seen(intake, 2)
            ip(namespace, "link", "del", "far")
            await until(lambda: intake.tally["interface_lost"] == 2)


async def send_until_seen(intake: RecordingIntake, number: int) -> None:
    """Send a frame out of ``near`` again and again until it arrives."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as near:
        near.bind(("near", 0))
        await until(lambda: near.send(frame(number)) and number in numbers(intake))


@namespaced
@pytest.mark.usefixtures("used_uvloop")
def test_it_works_on_uvloop(namespace: str, sender: socket.socket) -> None:
    async def main() -> None:
        async with capturing(namespace) as (_, intake):
            for number in range(100):
                sender.send(frame(number))
            await intake.wait_for_packets(100)
            assert numbers(intake) == list(range(100))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# -- kernel -----------------------------------------------------------------------------------
BLOCK_BYTES = 4096


def ring_of(blocks: list[list[tuple[bytes, int | None, bool]]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A ring as the kernel fills it: per block, ``(frame, VLAN TCI, outgoing)``."""
    ring = np.zeros(BLOCK_BYTES * len(blocks), dtype=np.uint8)
    for index, packets in enumerate(blocks):
        content = bytearray(BLOCK_BYTES)
        at = 48
        struct.pack_into("=IIIII", content, 0, 1, 0, 1, len(packets), at)
        for content_bytes, tci, outgoing in packets:
            mac = 82
            step = (mac + len(content_bytes) + 15) // 16 * 16
            status = 1 | (0 if tci is None else 0x10)
            struct.pack_into(
                "=IIIIIIHHIIHH", content, at, step, 5, 6, len(content_bytes), len(content_bytes) + 3, status,
                mac, mac + 14, 0, tci or 0, 0, 0,
            )  # fmt: skip
            content[at + 58] = 4 if outgoing else 0
            content[at + mac : at + mac + len(content_bytes)] = content_bytes
            at += step
        ring[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES] = np.frombuffer(content, dtype=np.uint8)
    return ring


packets_of_a_block = st.lists(
    st.tuples(st.binary(min_size=1, max_size=150), st.none() | st.integers(0, 65535), st.booleans()), max_size=15
)


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(
    st.lists(packets_of_a_block, min_size=2, max_size=4), st.sampled_from([160, 400, 4000]), st.integers(1, 20),
    st.booleans(), st.integers(1, 5),
)  # fmt: skip
def test_the_kernel_equals_its_plain_form(
    blocks: list[list[tuple[bytes, int | None, bool]]], room: int, capacity: int, skip: bool, budget: int
) -> None:
    expected = []
    for content, tci, outgoing in (p for block in blocks for p in block):
        if skip and outgoing:
            continue
        wire = len(content) + 3
        if tci is not None and len(content) >= 12:
            content, wire = content[:12] + b"\x81\x00" + struct.pack("!H", tci) + content[12:], wire + 4
        expected.append((content, wire))
    ring = ring_of(blocks)
    walk, used = np.zeros(1, dtype=WALK), np.zeros(2, dtype=np.int64)
    walk["block_bytes"], walk["blocks"] = BLOCK_BYTES, len(blocks)
    walk["skip_outgoing"], walk["ethernet"] = skip, 1
    got = []
    for _ in range(1000):
        payload, rows = np.zeros(4000, dtype=np.uint8), np.zeros(capacity, dtype=PACKET)
        used[:] = 0
        why = ENOUGH
        while why == ENOUGH:
            walk["budget"] = budget
            why = take_packets(ring, ring.view(np.uint32), ring.view(np.uint16), walk, payload, room, rows, used)
        assert used[0] <= room or used[1] == 1
        for row in rows[: used[1]]:
            got.append((payload[row["offset"] :][: row["captured_bytes"]].tobytes(), int(row["wire_bytes"])))
            assert row["timestamp_ns"] == 5_000_000_006
        if why == NOTHING:
            break
        assert why == FULL
    assert got == expected
    assert not ring.view(np.uint32).reshape(len(blocks), -1)[:, 2].any()  # every block is given back
