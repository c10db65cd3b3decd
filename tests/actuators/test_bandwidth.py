"""The HTB tree on a veth pair in a namespace of the test's own, by what ``tc`` says and what arrives."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamspec.actuators import bandwidth
from streamspec.actuators.bandwidth import Bandwidth
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.shares import EgressShare
from streamspec.testing.namespaces import add_pair, inside, ip, network_namespace

pytestmark = [pytest.mark.namespace, pytest.mark.slow]
BOTH_LOOPS = True
LINK = 12_500_000.0


@pytest.fixture
def namespace() -> Iterator[str]:
    with network_namespace() as name:
        add_pair(name, "lane0", "lane1")
        ip(name, "addr", "add", "10.9.0.1/24", "dev", "lane0")
        ip(name, "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "lane0")
        with inside(name):
            yield name


def _tc(namespace: str, *what: str) -> str:
    return subprocess.run(["tc", "-n", namespace, *what], check=True, capture_output=True, text=True).stdout


def _root(namespace: str) -> dict:
    found: list[dict] = json.loads(_tc(namespace, "-j", "qdisc", "show", "dev", "lane0"))
    return next(qdisc for qdisc in found if qdisc.get("root"))


def _classes(namespace: str) -> dict[str, str]:
    lines = _tc(namespace, "class", "show", "dev", "lane0").splitlines()
    return {line.split()[2]: line for line in lines}


async def test_shares_are_in_the_kernel_change_while_running_and_are_gone_afterwards(
    namespace: str, tmp_path: Path
) -> None:
    before = _root(namespace)
    actuator = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    ready = await actuator.probe()
    assert (ready.active, ready.way, ready.reason) == (True, "HTB on lane0", "")
    assert _root(namespace) == before  # a probe changes nothing
    applied = await actuator.apply({"light": EgressShare(4e6), "heavy": EgressShare(8e6, urgency=3)})
    assert not applied.refused
    assert applied.observed["light"] == EgressShare(4_000_000, 12_500_000, 0)
    assert applied.observed["heavy"] == EgressShare(8_000_000, 12_500_000, 3)
    classes = _classes(namespace)
    assert actuator.class_of("light") == "5350:10"
    assert "rate 32Mbit ceil 100Mbit" in classes["5350:10"]
    assert "prio 3 rate 64Mbit ceil 100Mbit" in classes["5350:11"]
    applied = await actuator.apply({"light": EgressShare(1e6, 2e6)})
    assert applied.observed["light"] == EgressShare(1_000_000, 2_000_000, 0)
    assert applied.observed["heavy"].bytes_per_second == 8_000_000
    await actuator.restore()
    await actuator.restore()
    assert _root(namespace) == before
    assert list(tmp_path.iterdir()) == []


async def test_guarantees_beyond_the_link_are_scaled_down_together(namespace: str, tmp_path: Path) -> None:
    actuator = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    await actuator.probe()
    try:
        observed = (await actuator.apply({"a": EgressShare(12e6), "b": EgressShare(6e6)})).observed
        assert observed["a"].bytes_per_second + observed["b"].bytes_per_second <= LINK
        assert observed["a"].bytes_per_second == pytest.approx(2 * observed["b"].bytes_per_second, rel=0.01)
    finally:
        await actuator.restore()


async def test_a_socket_tagged_with_the_class_is_counted_there(namespace: str, tmp_path: Path) -> None:
    actuator = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    await actuator.probe()
    await actuator.apply({"light": EgressShare(4e6), "heavy": EgressShare(4e6)})
    major, _, minor = (actuator.class_of("heavy") or "").partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(
            socket.SOL_SOCKET, socket.SO_PRIORITY, struct.pack("=I", int(major, 16) << 16 | int(minor, 16))
        )
        for _ in range(5):
            sender.sendto(b"x" * 100, ("10.9.0.2", 9))
    statistics = await actuator.statistics()
    assert statistics["heavy"].sent_packets == 5
    assert statistics["light"].sent_packets == 0
    await actuator.retain({"light"})
    assert set(await actuator.read_back()) == {"light"}
    assert actuator.class_of("heavy") is None
    await actuator.restore()


async def test_what_is_queued_leaves_before_the_tree_is_taken_away(namespace: str, tmp_path: Path) -> None:
    actuator = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    await actuator.probe()
    await actuator.apply({"slow": EgressShare(200_000, 200_000)})
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as receiver,
    ):
        receiver.bind(("lane1", 0))
        receiver.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, struct.pack("=I", 0x53500010))
        for _ in range(60):
            sender.sendto(b"x" * 1000, ("10.9.0.2", 9))
        assert (await actuator.statistics())["slow"].backlog_packets > 20
        await actuator.restore()
        arrived = 0
        while True:
            try:
                receiver.recv(2000)
            except BlockingIOError:
                break
            arrived += 1
        assert arrived == 60


HOLDER = """
import asyncio, sys
from pathlib import Path
from streamspec.actuators.bandwidth import Bandwidth
from streamspec.actuators.leftovers import Leftovers
from streamspec.actuators.shares import EgressShare
async def main():
    actuator = Bandwidth("lane0", 1e6, Leftovers(Path(sys.argv[1])))
    print((await actuator.probe()).active, flush=True)
    print((await actuator.apply({"a": EgressShare(1e5)})).refused, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_the_tree_of_a_killed_process_is_found_and_removed_and_that_of_a_living_one_is_not(
    namespace: str, tmp_path: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        assert holder.stdout.readline() == "{}\n"
        second = Bandwidth("lane0", LINK, Leftovers(tmp_path))
        ready = await second.probe()
        assert not ready.active
        assert ready.reason == f"streamspec with pid {holder.pid} shapes lane0 already"
        await second.restore()
        assert _root(namespace)["handle"] == "5350:"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    third = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    assert (await third.probe()).active
    assert _root(namespace)["kind"] == "noqueue"
    assert list(tmp_path.iterdir()) == []
    await third.restore()


async def test_someone_elses_qdisc_stays_and_sinks_pace_instead(namespace: str, tmp_path: Path) -> None:
    made = ("rate", "1mbit", "burst", "32k", "latency", "10ms")
    _tc(namespace, "qdisc", "add", "dev", "lane0", "root", "tbf", *made)
    actuator = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    ready = await actuator.probe()
    assert not ready.active
    assert "lane0 has a root qdisc that somebody made: tbf" in ready.reason
    assert ready.way == "token buckets in the sinks"
    assert actuator.pacer is not None
    applied = await actuator.apply({"a": EgressShare(1e6)})
    assert applied.observed["a"].bytes_per_second == 1e6
    assert actuator.class_of("a") is None
    await actuator.restore()
    assert _root(namespace)["kind"] == "tbf"


async def test_an_interface_that_does_not_exist_and_a_missing_capability_are_said(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = await Bandwidth("eth99", LINK, Leftovers(tmp_path)).probe()
    assert missing.reason == "there is no interface 'eth99'"
    monkeypatch.setattr(bandwidth, "may_administer", lambda: False)
    ready = await Bandwidth("lane0", LINK, Leftovers(tmp_path)).probe()
    assert not ready.active
    assert "CAP_NET_ADMIN" in ready.next_step


async def test_a_tree_that_someone_removed_is_made_anew_and_a_lost_interface_is_said(
    namespace: str, tmp_path: Path
) -> None:
    actuator = Bandwidth("lane0", LINK, Leftovers(tmp_path))
    await actuator.probe()
    await actuator.apply({"a": EgressShare(1e6), "b": EgressShare(2e6)})
    assert (await actuator.probe()).active  # asked again while it runs, it keeps what it has
    _tc(namespace, "qdisc", "del", "dev", "lane0", "root")
    applied = await actuator.apply({"a": EgressShare(3e6)})
    assert not applied.refused
    assert {lane: share.bytes_per_second for lane, share in applied.observed.items()} == {"a": 3e6, "b": 2e6}
    ip(namespace, "link", "del", "lane0")
    applied = await actuator.apply({"a": EgressShare(1e6)})
    assert set(applied.refused) == {"a", "b"}
    assert "such" in applied.refused["a"]
    await actuator.restore()
