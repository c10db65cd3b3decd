"""Sinks whose class and limit change while they run: what the kernel's classes count, and what a virtual clock says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamspec.actuators.bandwidth import Bandwidth
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.shares import EgressShare
from streamspec.core.interfaces import ShapedSink
from streamspec.core.tally import Tally
from streamspec.sinks.tcp import TcpSinkConfig
from streamspec.sinks.udp import UdpSink, UdpSinkConfig
from streamspec.testing.clock import ManualClock
from streamspec.testing.deliveries import ListBatch, make_delivery
from streamspec.testing.namespaces import inside, ip, network_namespace

NEAR, FAR = "10.9.1.1", "10.9.1.2"


@pytest.fixture
def far() -> Iterator[str]:
    """This thread is in a namespace with an interface ``out``; its peer is in the namespace that is given."""
    with network_namespace() as near, network_namespace() as far:
        ip(near, "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", far)
        for namespace, name, address in ((near, "out", NEAR), (far, "in", FAR)):
            ip(namespace, "addr", "add", f"{address}/24", "dev", name)
            ip(namespace, "link", "set", name, "up")
        with inside(near):
            yield far


async def _swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)
    writer.close()
    await writer.wait_closed()


@pytest.mark.namespace
@pytest.mark.slow
async def test_results_pass_the_class_that_the_sink_is_given_while_it_runs(far: str, tmp_path: Path) -> None:
    actuator = Bandwidth("out", 12_500_000, Leftovers(tmp_path))
    assert (await actuator.probe()).active
    await actuator.apply({"light": EgressShare(4e6), "heavy": EgressShare(4e6)})
    with inside(far):
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((FAR, 0))
        listener = await asyncio.start_server(_swallow, FAR, 0)
    tcp_port = listener.sockets[0].getsockname()[1]
    sinks = [
        UdpSinkConfig(type="udp", address=f"{FAR}:{datagrams.getsockname()[1]}", content="payload").build("u"),
        TcpSinkConfig(type="tcp", address=f"{FAR}:{tcp_port}", content="payload").build("t"),
    ]
    for sink in sinks:
        assert isinstance(sink, ShapedSink)
        await sink.open(Tally())
        before = {lane: state.sent_packets for lane, state in (await actuator.statistics()).items()}
        for lane in ("light", "heavy"):
            sink.shape(actuator.class_of(lane))
            await sink.write(ListBatch([make_delivery([b"x" * 500])]))
            now = {lane: state.sent_packets for lane, state in (await actuator.statistics()).items()}
            other = "heavy" if lane == "light" else "light"
            assert now[lane] > before[lane]
            assert now[other] == before[other]
            before = now
        sink.shape()
        await sink.close()
    listener.close()
    await listener.wait_closed()
    datagrams.close()
    await actuator.restore()


async def test_a_limit_changes_from_now_on_and_goes_back_to_the_configured_one() -> None:
    clock = ManualClock()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    async def seconds_for(sink: UdpSink, size_bytes: int) -> float:
        slept.clear()
        for _ in range(size_bytes // 1000):
            await sink.write(ListBatch([make_delivery([b"x" * 1000])]))
        return sum(slept)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        config = UdpSinkConfig(type="udp", address=f"127.0.0.1:{one.getsockname()[1]}", content="payload")
        sink = UdpSink("out", config, clock=clock, sleep=sleep)
        await sink.open(Tally())
        assert await seconds_for(sink, 200_000) == 0
        sink.shape(bytes_per_second=1e5)
        assert await seconds_for(sink, 200_000) == pytest.approx(2.0, rel=0.2)
        sink.shape(bytes_per_second=1e6)
        assert await seconds_for(sink, 200_000) == pytest.approx(0.2, rel=0.2)
        sink.shape()
        assert await seconds_for(sink, 200_000) == 0
        await sink.close()
