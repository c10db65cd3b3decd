"""The whole service: real sockets in, real worker processes, real sockets out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from streamspec.app import Service
from streamspec.config import ServiceConfig, parse_config
from streamspec.core.errors import DependencyUnavailable
from streamspec.testing.waiting import until

pytestmark = pytest.mark.slow


class Receiver:
    """A UDP socket that collects what a sink sends."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.got: list[bytes] = []

    @property
    def address(self) -> str:
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def received(self) -> list[bytes]:
        """All datagrams so far."""
        while True:
            try:
                self.got.append(self.socket.recv(65536))
            except BlockingIOError:
                return self.got


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.socket.close()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(port: int, out: str, **changes: Any) -> ServiceConfig:
    document: dict[str, Any] = {
        "sources": {"packets": {"type": "udp", "bind": f"127.0.0.1:{port}", "linger": "5 ms"}},
        "stages": [],
        "sinks": {"out": {"type": "udp", "address": out, "content": "payload"}},
        "engine": {"workers": 1, "arena_bytes": "8 MiB", "drain_timeout": "5 s"},
        **changes,
    }
    return ServiceConfig.model_validate(document)


@asynccontextmanager
async def _running(config: ServiceConfig, **options: Any) -> AsyncIterator[tuple[Service, asyncio.Task[int]]]:
    service = Service(config, **options)
    task = asyncio.create_task(service.run())
    try:
        await until(lambda: task.done() or any(s.task for s in service.sources.values()))
        yield service, task
    finally:
        service.stop()
        await asyncio.gather(task, return_exceptions=True)


def _send(port: int, *messages: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for message in messages:
            sender.sendto(message, ("127.0.0.1", port))


async def test_datagrams_go_through_and_a_stop_drains(receiver: Receiver) -> None:
    port = _free_port()
    async with _running(_config(port, receiver.address)) as (service, task):
        _send(port, *[b"message %d" % i for i in range(100)])
        await until(lambda: len(receiver.received()) == 100)
        service.stop(signal.SIGTERM)
        assert await task == 0
    assert receiver.received() == [b"message %d" % i for i in range(100)]
    summary = service.summary()
    assert summary["segments_received"] == summary["segments_delivered"] > 0
    assert summary["segments_lost"] == 0
    assert summary["packets_received"] == 100
    assert summary["latency_seconds"]["p99"] > 0


async def test_what_arrived_before_the_stop_is_delivered(receiver: Receiver) -> None:
    port = _free_port()
    config = _config(port, receiver.address)
    async with _running(config) as (service, task):
        _send(port, b"just in time")
        service.stop(signal.SIGTERM)
        assert await task == 0
    assert receiver.received() == [b"just in time"]


async def test_a_port_in_use_is_one_clear_error(receiver: Receiver) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        config = _config(taken.getsockname()[1], receiver.address)
        service = Service(config)
        with pytest.raises(DependencyUnavailable, match="in use"):
            await service.run()


async def test_a_chain_that_cannot_be_built_ends_the_start_with_its_message(receiver: Receiver) -> None:
    config = _config(_free_port(), receiver.address, stages=[{"type": "map", "function": "no_such_module:f"}])
    with pytest.raises(Exception, match="no_such_module"):
        await Service(config).run()


async def test_a_reload_exchanges_stages_sinks_and_sources_without_loss(receiver: Receiver) -> None:
    first, second = _free_port(), _free_port()
    other = Receiver()
    async with _running(_config(first, receiver.address)) as (service, _):
        _send(first, b"one")
        await until(lambda: receiver.received() == [b"one"])
        await service.reload(
            _config(
                second,
                other.address,
                stages=[{"type": "map", "function": "tests.stages_for_tests:shout"}],
            )
        )
        _send(second, b"two")
        await until(lambda: other.received() == [b"TWO"])
        assert receiver.received() == [b"one"]
        assert list(service.sources) == ["packets"]
    other.socket.close()


async def test_a_reload_that_cannot_be_had_leaves_what_runs(receiver: Receiver) -> None:
    port = _free_port()
    config = _config(port, receiver.address)
    async with _running(config) as (service, _):
        with pytest.raises(Exception, match="no_such"):
            await service.reload(
                _config(port, receiver.address, stages=[{"type": "map", "function": "no_such_module:f"}])
            )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(DependencyUnavailable):
                await service.reload(_config(taken.getsockname()[1], receiver.address))
        _send(port, b"still here")
        await until(lambda: receiver.received() == [b"still here"])


async def test_a_hangup_signal_rereads_and_a_bad_file_changes_nothing(receiver: Receiver) -> None:
    port = _free_port()
    answers = [
        lambda: parse_config("sources: 5", origin="bad.yaml"),
        lambda: _config(port, receiver.address, lanes=[{"name": "renamed", "workers": 2}], engine={"workers": 2}),
    ]

    def reread() -> ServiceConfig:
        return answers.pop(0)()

    async with _running(_config(port, receiver.address), reread=reread) as (service, _):
        service.install_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(answers) == 1)
        assert [lane.name for lane in service.dispatcher.lanes] == ["default"]
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: [lane.name for lane in service.dispatcher.lanes] == ["renamed"])
        await until(lambda: len(service.dispatcher.lanes[0].workers) == 2)
        _send(port, b"after")
        await until(lambda: receiver.received() == [b"after"])
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_second_stop_does_not_wait_for_a_stuck_segment(receiver: Receiver) -> None:
    port = _free_port()
    config = _config(port, receiver.address, stages=[{"type": "map", "function": "tests.stages_for_tests:Stuck"}])
    async with _running(config) as (service, task):
        _send(port, b"stuck")
        await until(lambda: service.dispatcher.accounts.received_segments == 1)
        service.stop(signal.SIGTERM)
        await asyncio.sleep(0)
        service.stop(signal.SIGTERM)
        assert await task == 128 + signal.SIGTERM
    assert service.summary()["segments_shed"] == 1
    assert service.summary()["shed_reasons"] == {"stopped": 1}


async def test_what_a_stage_prints_does_not_reach_standard_output(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    port = _free_port()
    config = _config(port, receiver.address, stages=[{"type": "map", "function": "tests.stages_for_tests:talkative"}])
    async with _running(config) as (service, task):
        _send(port, b"hello")
        await until(lambda: receiver.received() == [b"hello"])
        service.stop()
        await task
    assert "looking at" not in capfd.readouterr().out


async def test_a_reload_applies_the_level_of_the_log(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    port = _free_port()
    try:
        async with _running(_config(port, receiver.address)) as (service, _):
            await service.reload(_config(port, receiver.address, logging={"level": "error", "format": "json"}))
            assert service.config.logging.level == "error"
            await service.reload(_config(port, receiver.address, logging={"level": "info", "format": "json"}))
        assert '"event":"reloaded"' in capsys.readouterr().err
    finally:
        structlog.reset_defaults()
