"""Whole services for tests: a UDP source, and a UDP socket that collects what the sink sends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streamspec.app import Service
from streamspec.config import ServiceConfig
from streamspec.testing.waiting import until


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


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def service_config(port: int, out: str, **changes: Any) -> ServiceConfig:
    document: dict[str, Any] = {
        "sources": {"packets": {"type": "udp", "bind": f"127.0.0.1:{port}", "linger": "5 ms"}},
        "stages": [],
        "sinks": {"out": {"type": "udp", "address": out, "content": "payload"}},
        "engine": {"workers": 1, "arena_bytes": "8 MiB", "drain_timeout": "5 s"},
        **changes,
    }
    return ServiceConfig.model_validate(document)


@asynccontextmanager
async def running(config: ServiceConfig, **options: Any) -> AsyncIterator[tuple[Service, asyncio.Task[int]]]:
    service = Service(config, **options)
    task = asyncio.create_task(service.run())
    try:
        await until(lambda: task.done() or any(s.task for s in service.sources.values()))
        yield service, task
    finally:
        service.stop()
        await asyncio.gather(task, return_exceptions=True)


def send(port: int, *messages: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for message in messages:
            sender.sendto(message, ("127.0.0.1", port))
