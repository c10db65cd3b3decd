"""The whole service: real sockets in, real worker processes, real sockets out."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest
import structlog

from streamspec.app import Service
from streamspec.config import ServiceConfig, parse_config
from streamspec.core.errors import DependencyUnavailable
from streamspec.testing.waiting import until
from tests.services import Receiver, free_port, running, send, service_config

pytestmark = pytest.mark.slow


async def test_datagrams_go_through_and_a_stop_drains(receiver: Receiver) -> None:
    port = free_port()
    async with running(service_config(port, receiver.address)) as (service, task):
        send(port, *[b"message %d" % i for i in range(100)])
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
    port = free_port()
    config = service_config(port, receiver.address)
    async with running(config) as (service, task):
        send(port, b"just in time")
        service.stop(signal.SIGTERM)
        assert await task == 0
    assert receiver.received() == [b"just in time"]


async def test_a_port_in_use_is_one_clear_error(receiver: Receiver) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        config = service_config(taken.getsockname()[1], receiver.address)
        service = Service(config)
        with pytest.raises(DependencyUnavailable, match="in use"):
            await service.run()


async def test_a_chain_that_cannot_be_built_ends_the_start_with_its_message(receiver: Receiver) -> None:
    config = service_config(free_port(), receiver.address, stages=[{"type": "map", "function": "no_such_module:f"}])
    with pytest.raises(Exception, match="no_such_module"):
        await Service(config).run()


async def test_a_reload_exchanges_stages_sinks_and_sources_without_loss(receiver: Receiver) -> None:
    first, second = free_port(), free_port()
    other = Receiver()
    async with running(service_config(first, receiver.address)) as (service, _):
        send(first, b"one")
        await until(lambda: receiver.received() == [b"one"])
        await service.reload(
            service_config(
                second,
                other.address,
                stages=[{"type": "map", "function": "tests.stages_for_tests:shout"}],
            )
        )
        send(second, b"two")
        await until(lambda: other.received() == [b"TWO"])
        assert receiver.received() == [b"one"]
        assert list(service.sources) == ["packets"]
    other.socket.close()


async def test_a_reload_that_cannot_be_had_leaves_what_runs(receiver: Receiver) -> None:
    port = free_port()
    config = service_config(port, receiver.address)
    async with running(config) as (service, _):
        with pytest.raises(Exception, match="no_such"):
            await service.reload(
                service_config(port, receiver.address, stages=[{"type": "map", "function": "no_such_module:f"}])
            )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", 0))
            with pytest.raises(DependencyUnavailable):
                await service.reload(service_config(taken.getsockname()[1], receiver.address))
        send(port, b"still here")
        await until(lambda: receiver.received() == [b"still here"])


async def test_a_hangup_signal_rereads_and_a_bad_file_changes_nothing(receiver: Receiver) -> None:
    port = free_port()
    answers = [
        lambda: parse_config("sources: 5", origin="bad.yaml"),
        lambda: service_config(
            port, receiver.address, lanes=[{"name": "renamed", "workers": 2}], engine={"workers": 2}
        ),
    ]

    def reread() -> ServiceConfig:
        return answers.pop(0)()

    async with running(service_config(port, receiver.address), reread=reread) as (service, _):
        service.install_signals()
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: len(answers) == 1)
        assert [lane.name for lane in service.dispatcher.lanes] == ["default"]
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: [lane.name for lane in service.dispatcher.lanes] == ["renamed"])
        await until(lambda: len(service.dispatcher.lanes[0].workers) == 2)
        send(port, b"after")
        await until(lambda: receiver.received() == [b"after"])
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_a_second_stop_does_not_wait_for_a_stuck_segment(receiver: Receiver) -> None:
    port = free_port()
    config = service_config(
        port, receiver.address, stages=[{"type": "map", "function": "tests.stages_for_tests:Stuck"}]
    )
    async with running(config) as (service, task):
        send(port, b"stuck")
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
    port = free_port()
    config = service_config(
        port, receiver.address, stages=[{"type": "map", "function": "tests.stages_for_tests:talkative"}]
    )
    async with running(config) as (service, task):
        send(port, b"hello")
        await until(lambda: receiver.received() == [b"hello"])
        service.stop()
        await task
    assert "looking at" not in capfd.readouterr().out


async def test_a_reload_applies_the_level_of_the_log(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    try:
        async with running(service_config(port, receiver.address)) as (service, _):
            await service.reload(service_config(port, receiver.address, logging={"level": "error", "format": "json"}))
            assert service.config.logging.level == "error"
            await service.reload(service_config(port, receiver.address, logging={"level": "info", "format": "json"}))
        assert '"event":"reloaded"' in capsys.readouterr().err
    finally:
        structlog.reset_defaults()
