"""The terminal view, as a process of its own against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from dataclasses import replace

import pytest

from streamspec.telemetry.state import ComponentHealth
from streamspec.testing.status import ManualReader, decision
from tests.admin.conftest import TOKEN, Served, serving

pytestmark = pytest.mark.slow


async def top(*arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "streamspec",
        "top",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "150", "HTTP_PROXY": "http://127.0.0.1:9", **environment},
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_one_picture_tells_lanes_health_content_and_decisions() -> None:
    async with serving() as served:
        served.reader.decisions.add(decision(1))
        code, out, _ = await top(served.server.url, "--once")
    assert code == 0
    for told in (
        "lane0",
        "lane1",
        "1 of 2",
        "json 60%",
        "dropped 7 packets",
        "workers 1 to 2",
        "99 % within 50 ms: met",
    ):
        assert told in out


async def test_the_address_may_be_written_without_its_scheme_and_json_is_the_state() -> None:
    async with serving() as served:
        code, out, _ = await top(served.server.url.removeprefix("http://").rstrip("/"), "--json")
    assert code == 0
    assert json.loads(out)["totals"]["received_segments"] == 10_000


async def test_a_service_that_is_not_there_is_one_line_and_its_exit_code() -> None:
    code, out, err = await top("http://127.0.0.1:1", "--once")
    assert (code, out) == (69, "")
    assert err.startswith("http://127.0.0.1:1: cannot be asked")
    assert len(err.splitlines()) == 1


async def test_the_token_comes_from_the_option_or_the_environment() -> None:
    async with serving(token=TOKEN) as served:
        code, _, err = await top(served.server.url, "--once")
        assert code == 69
        assert "STREAMSPEC_TOKEN" in err
        assert (await top(served.server.url, "--once", "--token", TOKEN))[0] == 0
        assert (await top(served.server.url, "--once", STREAMSPEC_TOKEN=TOKEN))[0] == 0


async def test_what_a_service_says_cannot_command_the_terminal() -> None:
    reader = ManualReader()
    evil = ComponentHealth("sink \x1b[2J[bold]out", "degraded", "[red]\x1b]0;owned\x07")
    reader.present = replace(reader.present, health=(evil,))
    async with serving(reader) as served:
        code, out, _ = await top(served.server.url, "--once")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]out" in out


async def read_until(descriptor: int, wanted: bytes) -> bytes:
    loop, seen, found = asyncio.get_running_loop(), bytearray(), asyncio.Event()

    def readable() -> None:
        seen.extend(os.read(descriptor, 65536))
        if wanted in seen:
            found.set()

    loop.add_reader(descriptor, readable)
    try:
        async with asyncio.timeout(20):
            await found.wait()
    finally:
        loop.remove_reader(descriptor)
    return bytes(seen)


async def test_in_a_terminal_it_follows_the_service_until_it_is_interrupted() -> None:
    master, slave = pty.openpty()
    try:
        async with serving() as served:
            process = await follow(served, slave)
            await read_until(master, b"lane1")
            served.reader.present = replace(
                served.reader.present, health=(ComponentHealth("sink out", "failed", "gone"),)
            )
            await read_until(master, b"sink out: gone")
        await read_until(master, b"connection lost")
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
    finally:
        os.close(master)
        os.close(slave)


async def follow(served: Served, terminal: int) -> asyncio.subprocess.Process:
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"}
    command = [sys.executable, "-m", "streamspec", "top", served.server.url]
    return await asyncio.create_subprocess_exec(
        *command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
