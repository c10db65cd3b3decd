"""The server as probes, scrapers, scripts and strangers meet it: over real connections."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from streamspec.admin.config import AdminConfig
from streamspec.admin.server import AdminServer
from streamspec.core.errors import DependencyUnavailable
from streamspec.telemetry.state import ComponentHealth, NotControllable
from streamspec.testing.status import ManualReader, decision
from tests.admin.conftest import TOKEN, Served, serving

JSON = ["/livez", "/readyz", "/version", "/api/v1/state", "/api/v1/lanes", "/api/v1/decisions", "/api/v1/history"]
EVERY = [*JSON, "/api/v1/control", "/api/v1/openapi.json", "/metrics", "/api/v1/events", "/", "/dashboard.js"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# -- health -----------------------------------------------------------------------------------
async def test_a_live_and_ready_service_says_so(served: Served) -> None:
    assert await served.get("/livez") == (200, {"alive": True})
    status, body = await served.get("/readyz")
    assert (status, body["ready"]) == (200, True)
    assert body["components"]["source packets"]["condition"] == "degraded"


async def test_what_is_required_and_missing_makes_it_not_ready_with_the_reason(served: Served) -> None:
    failed = ComponentHealth("fleet", "failed", "none of 2 workers is ready", required=True)
    served.reader.present = replace(served.reader.present, health=(failed,))
    await asyncio.sleep(0.11)  # what was read in the last tenth of a second is given again
    status, body = await served.get("/readyz")
    assert (status, body["ready"]) == (503, False)
    assert body["components"]["fleet"]["reason"] == "none of 2 workers is ready"
    assert (await served.get("/livez"))[0] == 200


# -- reading ----------------------------------------------------------------------------------
@pytest.mark.parametrize("path", EVERY)
async def test_head_gives_the_headers_of_get(served: Served, path: str) -> None:
    async with served.client.head(path) as head, served.client.get(path) as get:
        assert head.status == get.status == 200
        assert head.headers["Content-Type"] == get.headers["Content-Type"]
        assert await head.read() == b""


@pytest.mark.parametrize("path", EVERY)
async def test_every_answer_carries_the_security_headers(served: Served, path: str) -> None:
    async with served.client.get(path) as response:
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Server"] == "streamspec"


async def test_the_state_is_that_of_the_service(served: Served) -> None:
    _, body = await served.get("/api/v1/state")
    assert [lane["name"] for lane in body["lanes"]] == ["lane0", "lane1"]
    assert body["lanes"][0]["knobs"][0] == {
        "knob": "workers",
        "unit": "workers",
        "desired": 2,
        "granted": 1,
        "observed": 1,
    }
    assert (await served.get("/api/v1/lanes"))[1] == body["lanes"]


async def test_decisions_come_newest_first_and_in_pages(served: Served) -> None:
    for number in range(1, 8):
        served.reader.decisions.add(decision(number))
    _, newest = await served.get("/api/v1/decisions?limit=3")
    assert [row["number"] for row in newest] == [7, 6, 5]
    _, older = await served.get("/api/v1/decisions?limit=3&before=5")
    assert [row["number"] for row in older] == [4, 3, 2]
    assert newest[0]["sentence"].startswith("bulk: workers 1 to 2 (1.4 s/s of work")


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=99999999999", "before=1e9", "limit=²"])
async def test_a_number_out_of_range_is_refused_with_its_range(served: Served, query: str) -> None:
    status, body = await served.get(f"/api/v1/decisions?{query}")
    assert status == 400
    assert "a whole number from" in body["error"]


async def test_unknown_paths_and_methods_are_json_errors(served: Served) -> None:
    assert await served.get("/nothing") == (404, {"error": "not found"})
    async with served.client.delete("/api/v1/state") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]


async def test_what_goes_wrong_inside_is_an_error_without_its_details(served: Served) -> None:
    served.reader.decisions.last = None  # type: ignore[method-assign, assignment]
    assert await served.get("/api/v1/decisions") == (500, {"error": "internal error; the log has it"})
    assert (await served.get("/livez"))[0] == 200


# -- events -----------------------------------------------------------------------------------
async def read_event(response: aiohttp.ClientResponse) -> tuple[str, Any]:
    name = (await response.content.readline()).decode().strip().removeprefix("event: ")
    content = json.loads((await response.content.readline()).decode().removeprefix("data: "))
    await response.content.readline()
    return name, content


@pytest.mark.slow
async def test_events_tell_states_points_and_decisions_as_they_come(served: Served) -> None:
    async with served.client.get("/api/v1/events") as response, asyncio.timeout(5):
        assert response.content_type == "text/event-stream"
        assert (await read_event(response))[0] == "state"
        served.reader.decisions.add(decision(1))
        seen: dict[str, Any] = {}
        while len(seen) < 3:
            name, content = await read_event(response)
            seen[name] = content
        assert seen["decision"]["outcome"] == "applied"
        assert seen["point"]["at"] == round(seen["state"]["now_seconds"], 1)


@pytest.mark.slow
async def test_readers_beyond_the_limit_are_turned_away_and_room_comes_back() -> None:
    async with serving(max_streams=1) as served:
        first = await served.client.get("/api/v1/events")
        assert (await served.get("/api/v1/events"))[0] == 503
        first.close()
        async with asyncio.timeout(10):
            while True:
                async with served.client.get("/api/v1/events") as again:
                    if again.status == 200:
                        break
                await asyncio.sleep(0.05)


async def test_a_reader_that_does_not_read_is_let_go_and_holds_nothing_up(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.client._base_url.port)  # type: ignore[union-attr]
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readline()
    api = served.server._api
    async with asyncio.timeout(20):
        while api._streams:
            for _ in range(50):
                api.tick()
            await asyncio.sleep(0)
    assert (await served.get("/livez"))[0] == 200
    writer.close()


async def test_closing_ends_open_streams() -> None:
    reader = ManualReader()
    server = AdminServer(AdminConfig(bind="127.0.0.1:0"), reader, reader)
    await server.open()
    async with aiohttp.ClientSession(server.url) as client, client.get("/api/v1/events") as response:
        async with asyncio.timeout(5):
            await server.close()
            assert (await response.read()).startswith(b"event: state")


# -- strangers --------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["evil.example", "evil.example:9470", "127.0.0.1.evil.example", "", "[::ffff]"])
async def test_a_name_that_was_rebound_to_loopback_is_refused(served: Served, host: str) -> None:
    for path in ("/", "/api/v1/state", "/metrics", "/livez"):
        assert (await served.get(path, headers={"Host": host}))[0] == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9470", "127.0.0.1:1", "127.1.2.3", "[::1]:9470", "[::1]"])
async def test_names_of_the_loopback_are_served(served: Served, host: str) -> None:
    assert (await served.get("/livez", headers={"Host": host}))[0] == 200


async def test_with_a_token_everything_but_page_and_health_asks_for_it() -> None:
    async with serving(token=TOKEN) as served:
        for path in EVERY:
            wanted = 200 if path in ("/", "/dashboard.js", "/livez", "/readyz") else 401
            assert (await served.get(path, headers={}))[0] == wanted, path
        for wrong in ("", "x", TOKEN[:-1], TOKEN + "x", "ä"):
            assert (await served.get("/metrics", headers=bearer(wrong)))[0] == 401
        assert (await served.get("/metrics", headers=bearer(TOKEN)))[0] == 200
        assert (await served.get("/metrics", headers={"Authorization": f"Basic {TOKEN}"}))[0] == 401


async def test_no_answer_tells_the_token() -> None:
    async with serving(token=TOKEN) as served:
        for path in set(EVERY) - {"/api/v1/events"}:
            async with served.client.get(path, headers=bearer(TOKEN)) as response:
                assert TOKEN not in await response.text() + str(response.headers)


# -- control ----------------------------------------------------------------------------------
async def switch(served: Served, body: Any, **headers: str) -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json", **headers}
    async with served.client.post("/api/v1/control", data=content, headers=sent) as response:
        return response.status, await response.json()


async def test_without_a_token_in_the_configuration_nothing_can_be_changed(served: Served) -> None:
    assert (await switch(served, {"mode": "off"}))[0] == 403
    assert served.reader.present.control.mode == "auto"


async def test_mode_and_learning_are_switched_with_the_token() -> None:
    async with serving(token=TOKEN) as served:
        assert (await switch(served, {"mode": "off"}))[0] == 401
        assert await switch(served, {"mode": "recommend"}, **bearer(TOKEN)) == (
            200,
            {"mode": "recommend", "learning": "run"},
        )
        assert (await switch(served, {"learning": "pause"}, **bearer(TOKEN)))[1]["learning"] == "pause"
        assert (await switch(served, {"learning": "run"}, **bearer(TOKEN)))[1]["learning"] == "run"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"mode": "wild"}, 422),
        ({"speed": 9}, 422),
        (b"{", 422),
        (b"\xff\xfe", 422),
        ([], 422),
        (b" " * 5000, 413),
        ({}, 200),
    ],
)
async def test_bodies_that_are_not_as_described_change_nothing(body: Any, status: int) -> None:
    async with serving(token=TOKEN) as served:
        assert (await switch(served, body, **bearer(TOKEN)))[0] == status
        assert served.reader.present.control.mode == "auto"


async def test_a_body_of_another_type_is_refused() -> None:
    async with serving(token=TOKEN) as served:
        sent = {**bearer(TOKEN), "Content-Type": "text/plain"}
        assert (await switch(served, {"mode": "off"}, **sent))[0] == 415


async def test_what_this_service_cannot_switch_is_a_conflict_with_its_reason() -> None:
    class Fixed(ManualReader):
        def set_mode(self, mode: str) -> None:
            raise NotControllable("there is no controller", where="control.mode")

    async with serving(Fixed(), token=TOKEN) as served:
        status, body = await switch(served, {"mode": "auto"}, **bearer(TOKEN))
        assert status == 409
        assert "no controller" in body["error"]


# -- the port ---------------------------------------------------------------------------------
async def test_a_port_that_was_asked_for_and_is_taken_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        reader = ManualReader()
        server = AdminServer(AdminConfig(bind=address), reader, reader)
        with pytest.raises(DependencyUnavailable, match=r"admin\.bind.*in use.*choose another port"):
            await server.open()
        await server.close()


async def test_two_services_with_the_default_port_both_serve() -> None:
    readers = [ManualReader(), ManualReader()]
    servers = [AdminServer(AdminConfig(), reader, reader) for reader in readers]
    try:
        for server in servers:
            await server.open()
        assert servers[0].url != servers[1].url
        async with aiohttp.ClientSession() as client:
            for server in servers:
                async with client.get(server.url + "livez") as response:
                    assert response.status == 200
    finally:
        for server in servers:
            await server.close()


@pytest.mark.slow
async def test_a_reader_that_fails_does_not_end_the_server(served: Served) -> None:
    def broken() -> Any:
        raise RuntimeError("no state today")

    tick, served.reader.tick = served.reader.tick, broken  # type: ignore[method-assign]
    await asyncio.sleep(1.05)
    served.reader.tick = tick  # type: ignore[method-assign]
    assert (await served.get("/livez"))[0] == 200
    assert (await served.get("/api/v1/state"))[0] == 200
