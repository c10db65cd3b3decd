"""The dashboard in a real browser, over real connections; pictures of it are kept in ``out/screenshots``."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from time import time

import pytest

from streamspec.admin.config import AdminConfig
from streamspec.admin.server import AdminServer
from streamspec.app import Service
from streamspec.config import ServiceConfig
from streamspec.telemetry.history import KEPT_SECONDS
from streamspec.telemetry.state import ComponentHealth
from streamspec.testing.status import ManualReader, decision
from streamspec.testing.waiting import until
from tests.admin.browsing import Visit, browsing, visit
from tests.admin.conftest import TOKEN, serving

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(120)]


def config(port: int, *lanes: dict[str, object]) -> ServiceConfig:
    return ServiceConfig.model_validate(
        {
            "sources": {"packets": {"type": "udp", "bind": f"127.0.0.1:{port}", "linger": "5 ms"}},
            "stages": [{"type": "map", "function": "streamspec.testing.workload:Identity"}],
            "sinks": {"out": {"type": "null"}},
            "engine": {"arena_bytes": "16 MiB"},
            "lanes": lanes,
            "admin": {"bind": "127.0.0.1:0"},
        }
    )


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def send(port: int) -> None:
    """Messages of two kinds, 200 a second, until cancelled."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while True:
            sender.sendto(b'{"level": "info", "message": "some words"}' * 4, ("127.0.0.1", port))
            sender.sendto(b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n" * 20, ("127.0.0.1", port))
            await asyncio.sleep(0.01)


@asynccontextmanager
async def busy_service(configuration: ServiceConfig, port: int) -> AsyncIterator[Service]:
    service = Service(configuration)
    running = asyncio.create_task(service.run())
    sending = asyncio.create_task(send(port))
    try:
        await until(lambda: running.done() or service.phase == "running")
        yield service
    finally:
        sending.cancel()
        service.stop()
        await asyncio.gather(sending, return_exceptions=True)
        assert await running == 0


async def hover_newest_mark(seen: Visit) -> None:
    box = await seen.page.locator("#latency").bounding_box()
    assert box is not None
    async with asyncio.timeout(20):
        while True:
            for back in range(9, 200, 6):
                await seen.page.mouse.move(box["x"] + box["width"] - back, box["y"] + 80)
                if await seen.page.locator("#tip .sentence").count():
                    return


async def test_a_person_sees_what_the_service_does_and_why() -> None:
    port = free_port()
    small = {"name": "small", "match": {"max_bytes": "400 B"}}
    before = config(port, small, {"name": "rest"})
    after = config(port, small, {"name": "late-comer", "match": {"max_bytes": "1 KiB"}, "nice": 3}, {"name": "rest"})
    async with busy_service(before, port) as service, browsing() as browser:
        assert service.admin is not None
        seen = await visit(browser, service.admin.url)
        await seen.until("() => parseFloat(document.getElementById('now-segments').textContent) > 0")
        first = await seen.text("#lanes")
        await seen.until("(first) => document.getElementById('lanes').innerText !== first", first)
        assert await seen.text("#phase") == "running"
        await seen.until("() => /within 50 ms: (met|missed)/.test(document.getElementById('objective').textContent)")

        await service.reload(after)
        await seen.until("() => document.querySelector('[data-lane=late-comer] .worker')")
        assert "nice 3" in await seen.text("[data-lane=late-comer] .knobs")

        service.decisions.add(decision(1, time()))
        await seen.until("() => document.querySelector('#decisions .decision')")
        assert "workers 1 to 2 (1.4 s/s of work" in await seen.text("#decisions .sentence")
        await seen.page.locator("#decisions .decision").first.click()
        assert "cooldown, it changed 3 s ago" in await seen.text("#decisions dl")
        await hover_newest_mark(seen)
        assert "bulk: workers 1 to 2" in await seen.text("#tip .sentence")
        await seen.keep("wide-light")
        assert seen.complaints == []
        assert {request.split("/")[2] for request in seen.requests} == {service.admin.url.split("/")[2]}


@pytest.mark.parametrize(("name", "width", "dark"), [("phone-dark", 390, True), ("phone-light", 360, False)])
async def test_it_fits_a_phone(name: str, width: int, dark: bool) -> None:
    async with serving(ManualReader(8)) as served, browsing() as browser:
        served.reader.decisions.add(decision(1, served.reader.present.now_seconds))
        for _ in range(120):
            served.server._api.tick()
        seen = await visit(browser, served.server.url, width=width, height=800, dark=dark, device_scale_factor=2)
        await seen.until("() => document.querySelectorAll('.lane').length === 8")
        await seen.until("() => document.querySelector('.legend span')")
        assert await seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert await seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(16, 20, 26)" if dark else "rgb(245, 246, 248)"
        )
        await seen.keep(name)
        assert seen.complaints == []


async def test_the_first_paint_comes_within_a_second_with_an_hour_behind() -> None:
    async with serving(ManualReader(8)) as served, browsing() as browser:
        for _ in range(KEPT_SECONDS):
            served.server._api.tick()
        seen = await visit(browser, served.server.url)
        await seen.until("() => performance.getEntriesByName('first-contentful-paint').length")
        paint = await seen.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        assert paint < 1000
        await seen.until("() => document.querySelector('.legend span')")
        await seen.page.locator("#range button", has_text="1 h").click()
        await seen.keep("an-hour")
        assert seen.complaints == []


async def heap_and_nodes(seen: Visit) -> tuple[float, int]:
    session = await seen.page.context.new_cdp_session(seen.page)
    await session.send("HeapProfiler.collectGarbage")
    heap, nodes = await seen.page.evaluate(
        "[performance.memory.usedJSHeapSize, document.getElementsByTagName('*').length]"
    )
    return float(heap), int(nodes)


async def test_one_hour_more_of_points_and_decisions_grows_nothing() -> None:
    async with serving(ManualReader(8)) as served, browsing() as browser:
        reader = served.reader

        def second(number: int) -> None:
            if number % 10 == 0:
                reader.decisions.add(decision(number, reader.present.now_seconds))
            served.server._api.tick()

        async def pass_time(start: int, seconds: int) -> None:
            for number in range(start, start + seconds):
                second(number)
                await asyncio.sleep(0.001)  # no faster than the browser reads
            reader.present = replace(reader.present, version=f"after {start + seconds}")
            second(start + seconds)
            await seen.until(
                "(text) => document.getElementById('uptime').textContent.includes(text)", f"after {start + seconds}"
            )

        for number in range(KEPT_SECONDS):
            second(number)
        seen = await visit(browser, served.server.url)
        await seen.until("() => document.querySelector('.legend span') && document.querySelector('.decision')")
        await pass_time(KEPT_SECONDS, 200)
        heap, nodes = await heap_and_nodes(seen)
        await pass_time(KEPT_SECONDS + 201, KEPT_SECONDS)
        later_heap, later_nodes = await heap_and_nodes(seen)
        assert later_nodes <= nodes + 5
        assert later_heap < 1.1 * heap + 500_000
        assert seen.complaints == []


async def test_a_service_with_a_token_asks_for_it_and_can_be_switched() -> None:
    async with serving(token=TOKEN) as served, browsing() as browser:
        seen = await visit(browser, served.server.url)
        await seen.page.locator("#ask").wait_for()
        await seen.page.fill("#token", "not the right one")
        await seen.page.press("#token", "Enter")
        await seen.until("() => document.getElementById('ask-error').textContent === 'that was not it'")
        await seen.page.fill("#token", TOKEN)
        await seen.page.press("#token", "Enter")
        await seen.page.locator("#modes button", has_text="recommend").click()
        await until(lambda: served.reader.present.control.mode == "recommend")
        await seen.page.locator("#learning").click()
        await until(lambda: served.reader.present.learning is not None and served.reader.present.learning.paused)
        again = await visit(browser, f"{served.server.url}#token={TOKEN}")
        await again.until("() => document.getElementById('phase').textContent === 'running'")
        assert TOKEN not in again.page.url
        assert not any(TOKEN in request for request in again.requests)


async def test_a_lost_connection_is_said_and_taken_up_again() -> None:
    reader = ManualReader()
    server = AdminServer(AdminConfig(bind="127.0.0.1:0"), reader, reader)
    await server.open()
    address = server.url.split("/")[2]
    async with browsing() as browser:
        seen = await visit(browser, server.url)
        await seen.until("() => document.getElementById('phase').textContent === 'running'")
        await server.close()
        await seen.until("() => document.getElementById('phase').textContent === 'connection lost'")
        again = AdminServer(AdminConfig(bind=address), reader, reader)
        await again.open()
        await seen.until("() => document.getElementById('phase').textContent === 'running'")
    await again.close()


async def test_what_comes_over_the_network_is_text_and_never_page() -> None:
    reader = ManualReader()
    evil = "<img src=x onerror=\"document.title='owned'\">"
    reader.present = replace(reader.present, health=(ComponentHealth(f"sink {evil}", "failed", evil),))
    reader.present = replace(reader.present, lanes=(replace(reader.present.lanes[0], name=evil),))
    async with serving(reader) as served, browsing() as browser:
        seen = await visit(browser, served.server.url)
        await seen.until("() => document.querySelectorAll('.lane').length === 1")
        assert evil in await seen.text("#health")
        assert await seen.page.title() == "streamspec"
        assert await seen.page.locator("img").count() == 0
        assert seen.complaints == []
