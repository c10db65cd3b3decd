"""The OpenAPI description and the server say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from streamspec.admin import api
from streamspec.admin.description import description_text
from streamspec.testing.status import decision
from tests.admin.conftest import TOKEN, serving

DESCRIPTION: dict[str, Any] = json.loads(api.DESCRIPTION.read_text())


def test_the_file_is_current() -> None:
    command = "python -m streamspec.admin.description > streamspec/admin/openapi.json"
    assert api.DESCRIPTION.read_text() == description_text(), f"run {command}"


async def test_every_route_is_described_and_every_description_has_a_route() -> None:
    async with serving() as served:
        routes = {(route.path, route.method.lower()) for route in served.server._api.routes() if route.method != "HEAD"}
    described = {(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    assert routes == described


def _check(path: str, method: str, status: int, content_type: str, body: Any) -> None:
    answers = DESCRIPTION["paths"][path][method]["responses"]
    assert str(status) in answers, f"{method} {path} answers {status}, which is not described"
    ((kind, content),) = answers[str(status)]["content"].items()
    assert content_type == kind
    schema = {**content["schema"], "components": DESCRIPTION["components"]}
    Draft202012Validator(schema).validate(body)


@pytest.mark.parametrize("path", [path for path in DESCRIPTION["paths"] if path != "/api/v1/events"])
async def test_answers_are_as_described(path: str) -> None:
    async with serving(token=TOKEN) as served:
        served.reader.decisions.add(decision(1))
        served.server._api.tick()
        for headers in ({"Authorization": f"Bearer {TOKEN}"}, {}):
            async with served.client.get(path, headers=headers) as response:
                body = await (response.json() if response.content_type == "application/json" else response.text())
                _check(path, "get", response.status, response.content_type, body)


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"mode": "off"}', 200), (b'{"learning": "pause"}', 200), (b"{", 422), (b" " * 5000, 413)]
)
async def test_what_is_posted_is_answered_as_described(body: bytes, status: int) -> None:
    async with serving(token=TOKEN) as served:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        async with served.client.post("/api/v1/control", data=body, headers=headers) as response:
            assert response.status == status
            _check("/api/v1/control", "post", status, response.content_type, await response.json())


def test_the_description_is_a_document_that_refers_only_to_itself() -> None:
    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*(references(value) for value in part.values()))
        return set().union(*(references(value) for value in part)) if isinstance(part, list) else set()

    schemas = {f"#/components/schemas/{name}" for name in DESCRIPTION["components"]["schemas"]}
    assert references(DESCRIPTION) <= schemas
