"""The whole service over HTTP: from its start to its end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from streamspec.app import Service
from streamspec.config import ServiceConfig
from streamspec.core.errors import DependencyUnavailable
from streamspec.testing.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TOKEN = "a-token-of-enough-length"


def config(port: int = 0, **changes: Any) -> ServiceConfig:
    document: dict[str, Any] = {
        "sources": {"packets": {"type": "udp", "bind": f"127.0.0.1:{port}", "linger": "5 ms"}},
        "stages": [{"type": "map", "function": "streamspec.testing.workload:Crash"}],
        "sinks": {"out": {"type": "null"}},
        "engine": {"workers": 1, "arena_bytes": "8 MiB", "drain_timeout": "5 s", "retries": 0},
        "admin": {"bind": "127.0.0.1:0"},
        **changes,
    }
    return ServiceConfig.model_validate(document)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as response:
        body = await (response.json() if response.content_type == "application/json" else response.text())
        return response.status, body


async def test_it_is_ready_once_its_workers_are_and_no_longer_when_it_drains() -> None:
    port = free_port()
    stuck = [{"type": "map", "function": "tests.stages_for_tests:Stuck"}]
    service = Service(config(port, stages=stuck))
    running = asyncio.create_task(service.run())
    await until(lambda: service.admin is not None)
    assert service.admin is not None
    async with aiohttp.ClientSession(service.admin.url) as client:
        status, body = await get(client, "/readyz")
        assert (status, body["phase"]) == (503, "starting")
        assert body["components"]["service"]["reason"] == "workers are warming up"
        assert (await get(client, "/livez"))[0] == 200
        await until(lambda: service.phase == "running")
        await asyncio.sleep(0.11)
        assert (await get(client, "/readyz"))[0] == 200
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"stuck", ("127.0.0.1", port))
        await until(lambda: service.dispatcher.accounts.received_segments == 1)
        service.stop()
        await until(lambda: service.phase == "draining")
        await asyncio.sleep(0.11)
        status, body = await get(client, "/readyz")
        assert (status, body["components"]["service"]["reason"]) == (503, "draining: nothing new is taken in")
        service.stop()
        await running
        with pytest.raises(aiohttp.ClientConnectionError):
            await get(client, "/livez")


async def test_traffic_shows_in_state_and_metrics() -> None:
    port = free_port()
    service = Service(config(port))
    running = asyncio.create_task(service.run())
    await until(lambda: service.phase == "running")
    assert service.admin is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for count, message in enumerate((*[b'{"a": 1}'] * 5, b"FAIL"), start=1):
            sender.sendto(message, ("127.0.0.1", port))
            await until(lambda count=count: service.dispatcher.accounts.finished_segments == count)
    async with aiohttp.ClientSession(service.admin.url) as client:
        await asyncio.sleep(1.1)
        _, state = await get(client, "/api/v1/state")
        assert state["totals"]["received_packets"] == 6
        assert state["errors"] == [{"kind": "stage_error", "stage": "map", "segments": 1}]
        assert sum(share["segments"] for share in state["content"]) == state["totals"]["received_segments"]
        _, metrics = await get(client, "/metrics")
        assert "streamspec_received_packets_total 6.0" in metrics
        assert 'streamspec_errors_total{kind="stage_error",stage="map"} 1.0' in metrics
        _, ready = await get(client, "/readyz")
        assert {"service", "fleet", "source packets", "sink out", "intake"} <= set(ready["components"])
    service.stop()
    assert await running == 0


async def test_control_is_switched_on_the_running_service() -> None:
    service = Service(config(control={"mode": "recommend"}, admin={"bind": "127.0.0.1:0", "token": TOKEN}))
    running = asyncio.create_task(service.run())
    await until(lambda: service.phase == "running")
    assert service.admin is not None
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(service.admin.url, headers=headers) as client:
        await asyncio.sleep(0.11)
        assert (await get(client, "/api/v1/control"))[1]["mode"] == "recommend"
        async with client.post("/api/v1/control", json={"mode": "off", "learning": "pause"}) as response:
            assert await response.json() == {"mode": "off", "learning": "pause"}
        async with client.post("/api/v1/control", json={"mode": "auto", "learning": "run"}) as response:
            assert await response.json() == {"mode": "auto", "learning": "run"}
    service.stop()
    assert await running == 0


async def test_an_admin_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = Service(config(admin={"bind": f"127.0.0.1:{taken.getsockname()[1]}"}))
        with pytest.raises(DependencyUnavailable, match=r"admin\.bind"):
            await service.run()
