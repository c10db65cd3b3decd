"""The way out shared out among traffic classes by whole services: HTB on a veth pair of the test's own, or the sinks'
pace; and what a killed service leaves is removed by the next one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from streamspec.actuators import bandwidth
from streamspec.actuators.leftovers import Leftovers
from streamspec.app import Service
from streamspec.assembly.egress import Egress, sweep
from streamspec.config import ServiceConfig
from streamspec.engine.traffic_sinks import TrafficSinkRunner
from streamspec.testing.namespaces import add_pair, inside, ip, network_namespace
from streamspec.testing.waiting import until
from tests.services import Receiver, free_port, running, send

pytestmark = pytest.mark.slow
OUTSIDE = "10.9.0.2:9"


@pytest.fixture
def namespace() -> Iterator[str]:
    """This thread is in a namespace with ``lane0``; what leaves by it arrives at nobody."""
    with network_namespace() as name:
        ip(name, "link", "set", "lo", "up")
        add_pair(name, "lane0", "lane1")
        ip(name, "addr", "add", "10.9.0.1/24", "dev", "lane0")
        ip(name, "neigh", "add", "10.9.0.2", "lladdr", "02:00:00:00:00:02", "dev", "lane0")
        with inside(name):
            yield name


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where services write down what they change."""
    folder = tmp_path / "notes"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    return folder


def _document(ports: tuple[int, int], out: str, interface: str, link: str, **shares: str) -> dict[str, Any]:
    return {
        "sources": {
            name: {"type": "udp", "bind": f"127.0.0.1:{port}", "linger": "5 ms"}
            for name, port in zip("ab", ports, strict=True)
        },
        "sinks": {"out": {"type": "udp", "address": out, "content": "payload"}},
        "lanes": [
            {"name": "light", "match": {"sources": ["a"]}, "bytes_per_second": shares.get("light")},
            {"name": "heavy", "urgency": 1, "bytes_per_second": shares.get("heavy")},
        ],
        "control": {"egress": {"interface": interface, "bytes_per_second": link}},
        "engine": {
            "arena_bytes": "24 MiB",
            "segment_bytes": "32 KiB",
            "drain_timeout": "0 s",
            "max_packet_bytes": 2000,
        },
    }


@asynccontextmanager
async def _feeding(*flows: tuple[int, int, float]) -> AsyncIterator[None]:
    """Datagrams of 1000 bytes, of which the first is the port's: ``(port, datagrams, every so many seconds)``."""

    async def feed(port: int, count: int, seconds: float) -> None:
        datagram = bytes([port & 255]) + bytes(999)
        while True:
            send(port, *[datagram] * count)
            await asyncio.sleep(seconds)

    tasks = [asyncio.create_task(feed(*flow)) for flow in flows]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tc(namespace: str, *what: str) -> str:
    return subprocess.run(["tc", "-n", namespace, *what], check=True, capture_output=True, text=True).stdout


def _root(namespace: str) -> str:
    found: list[dict[str, Any]] = json.loads(_tc(namespace, "-j", "qdisc", "show", "dev", "lane0"))
    return next(f"{qdisc['kind']} {qdisc['handle']}" for qdisc in found if qdisc.get("root"))


def _sent(namespace: str) -> dict[str, int]:
    """Bytes by class."""
    text = _tc(namespace, "-s", "class", "show", "dev", "lane0")
    return {name: int(count) for name, count in re.findall(r"class htb (\S+) .*?Sent (\d+) bytes", text, re.DOTALL)}


@pytest.mark.namespace
async def test_each_class_has_its_share_of_the_link_and_a_flood_of_one_does_not_hold_the_other(
    namespace: str, notes: Path
) -> None:
    ports = light, heavy = free_port(), free_port()
    document = _document(ports, OUTSIDE, "lane0", "1 MB/s", light="700 kB/s", heavy="250 kB/s")
    before = _root(namespace)
    async with running(ServiceConfig.model_validate(document)) as (service, _):
        assert service.steering is not None
        await service.steering.effects.turned()
        accounts = service.dispatcher.accounts
        async with _feeding((light, 1, 0.005), (heavy, 40, 0.01)):
            await until(lambda: accounts.latency_seconds(50, 1) > 0.3)
            assert accounts.latency_seconds(50, 0) < 0.2 * accounts.latency_seconds(50, 1)
        assert set(service.dispatcher.accounts.shed.counts) <= {"class_full"}  # of the flood alone
        assert service.sources["a"].intake.tally.counts == {}
        async with _feeding((light, 40, 0.01), (heavy, 40, 0.01)):
            shares = await _shares(namespace, _classes(service), 400_000)
        # What nobody is promised goes to the more urgent one.
        assert shares["heavy"] / sum(shares.values()) == pytest.approx(0.25, rel=0.1)
        (knob,) = [knob for knob in service.steering.control.knobs("heavy") if knob.knob == "bytes_per_second"]
        assert (knob.desired, knob.granted, knob.observed) == (250_000, 250_000, 250_000)
        assert [path.suffix for path in notes.iterdir()] == [".json"]
    assert _root(namespace) == before
    assert list(notes.iterdir()) == []


def _classes(service: Service) -> dict[str, str]:
    """Names of the classes of the tree by traffic class."""
    assert service.steering is not None
    (part,) = [part for part in service.steering.effects.parts if isinstance(part, Egress)]
    return {lane: part.actuator.class_of(lane) or "" for lane in ("light", "heavy")}


async def _shares(namespace: str, classes: dict[str, str], size_bytes: int) -> dict[str, int]:
    """Bytes that left by each class while the light one sent so many, once both have been waiting."""

    async def passed() -> dict[str, int]:
        start = _sent(namespace)
        await until(lambda: _sent(namespace)[classes["light"]] > start[classes["light"]] + size_bytes)
        end = _sent(namespace)
        return {lane: end[name] - start[name] for lane, name in classes.items()}

    await passed()
    return await passed()


async def test_without_the_kernel_the_sinks_keep_to_the_shares_and_leave_none_unused(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bandwidth, "may_administer", lambda: False)
    light, heavy = free_port(), free_port()
    document = _document((light, heavy), receiver.address, "lo", "400 kB/s", light="250 kB/s")
    first = {name: bytes([port & 255]) for name, port in (("light", light), ("heavy", heavy))}

    def arrived(name: str) -> int:
        return sum(len(datagram) for datagram in receiver.received() if datagram[:1] == first[name])

    with capture_logs() as lines:
        async with running(ServiceConfig.model_validate(document)) as (service, _):
            assert service.steering is not None
            await service.steering.effects.turned()
            async with _feeding((light, 20, 0.01), (heavy, 20, 0.01)):
                await until(lambda: arrived("light") > 150_000)
                start = {name: arrived(name) for name in first}
                await until(lambda: arrived("light") > start["light"] + 300_000)
                shares = {name: arrived(name) - start[name] for name in first}
            assert shares["light"] / sum(shares.values()) == pytest.approx(250 / 400, rel=0.1)
            health = {part.component: part for part in service.steering.control.health()}
            assert health["actuator bandwidth"].condition == "degraded"
            assert "token buckets in the sinks" in health["actuator bandwidth"].reason
    said = [line for line in lines if line.get("actuator") == "bandwidth"]
    assert len(said) == 1
    assert "CAP_NET_ADMIN" in said[0]["reason"]


async def test_a_reload_shares_the_way_out_and_stops_to(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "may_administer", lambda: False)
    light, heavy = free_port(), free_port()
    shared = _document((light, heavy), receiver.address, "lo", "8 MB/s")
    plain = shared | {"control": {}}
    async with running(ServiceConfig.model_validate(plain)) as (service, _):
        for number, document in enumerate((shared, plain, shared)):
            await service.reload(ServiceConfig.model_validate(document))
            (runner,) = service.dispatcher.delivery.sinks
            assert isinstance(runner, TrafficSinkRunner) == (document is shared)
            send(light, b"light %d" % number)
            send(heavy, b"heavy %d" % number)
            await until(lambda number=number: len(receiver.received()) == 2 * number + 2)
        assert service.steering is not None
        await service.steering.effects.turned()
        knobs = {knob.knob: knob for knob in service.steering.control.knobs("light")}
        assert knobs["bytes_per_second"].desired == 4_000_000  # equal parts, where nothing is written
    assert service.dispatcher.accounts.delivered_segments == 6


# -- after kill -9 ------------------------------------------------------------------------------
@contextmanager
def _service(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "streamspec", "run", str(config)]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


async def _waiting(what: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(50):
        while not what():
            assert process.poll() is None, log.read_text()
            await asyncio.sleep(0.05)


def _descendants(pid: int) -> set[int]:
    children = {
        int(child)
        for task in Path(f"/proc/{pid}/task").glob("*/children")
        for child in task.read_text(encoding="ascii").split()
    }
    return children.union(*(_descendants(child) for child in children))


@pytest.mark.namespace
@pytest.mark.timeout(150)
async def test_what_a_killed_service_left_on_the_host_is_removed_by_the_next_start(
    namespace: str, notes: Path, tmp_path: Path
) -> None:
    config, log = tmp_path / "service.json", tmp_path / "log"
    config.write_text(json.dumps(_document((free_port(), free_port()), OUTSIDE, "lane0", "2 MB/s")))
    before = _root(namespace)
    for _ in range(2):
        with _service(config, log) as process:
            await _waiting(lambda process=process: any(notes.glob(f"{process.pid}-*.json")), process, log)  # type: ignore[misc]
            await _waiting(lambda: _root(namespace) == "htb 5350:", process, log)
            assert len(list(notes.iterdir())) == 1  # what the one before had written down is settled
            workers = _descendants(process.pid)
            assert workers
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert _root(namespace) == "htb 5350:"
        await until(lambda workers=workers: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "removed what a killed process had left" in log.read_text()
    await sweep(Leftovers(), None)  # what a start does where nothing is shared out
    assert _root(namespace) == before
    assert list(notes.iterdir()) == []
