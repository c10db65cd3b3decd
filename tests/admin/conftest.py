"""A server over a reader that the test sets, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from streamspec.admin.config import AdminConfig
from streamspec.admin.server import AdminServer
from streamspec.testing.status import ManualReader

TOKEN = "a-token-of-enough-length"


@dataclass
class Served:
    """A running server and a client."""

    server: AdminServer
    reader: ManualReader
    client: aiohttp.ClientSession

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and body of a GET, decoded when it is JSON."""
        async with self.client.get(path, **options) as response:
            body = await (response.json() if response.content_type == "application/json" else response.text())
            return response.status, body


@asynccontextmanager
async def serving(reader: ManualReader | None = None, **settings: Any) -> AsyncIterator[Served]:
    """Serve a reader on a free port of the loopback."""
    reader = reader or ManualReader()
    config = AdminConfig.model_validate({"bind": "127.0.0.1:0", **settings})
    server = AdminServer(config, reader, reader)
    await server.open()
    try:
        async with aiohttp.ClientSession(server.url) as client:
            yield Served(server, reader, client)
    finally:
        await server.close()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as running:
        yield running
