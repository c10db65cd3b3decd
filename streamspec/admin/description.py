"""The OpenAPI description, made of the models that the answers are made of.

Making it takes a fifth of a second, which no segment should wait for: what is served is the file
``openapi.json``, made by ``python -m streamspec.admin.description > streamspec/admin/openapi.json``.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

import streamspec
from streamspec.admin.api import ControlRequest
from streamspec.telemetry.decisions import KEPT_DECISIONS, DecisionView
from streamspec.telemetry.history import KEPT_SECONDS, Point
from streamspec.telemetry.state import LaneStatus, ServiceState

_SCHEMAS = "#/components/schemas/"
_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_SWITCHES = {
    "type": "object",
    "properties": {
        "mode": {"enum": ["off", "recommend", "auto"]},
        "learning": {"enum": ["run", "pause", None], "description": "null: this service does not learn"},
    },
    "required": ["mode", "learning"],
    "additionalProperties": False,
}
_READY = {
    "type": "object",
    "properties": {
        "ready": {"type": "boolean"},
        "phase": {"enum": ["starting", "running", "draining", "stopped"]},
        "components": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "condition": {"enum": ["ok", "degraded", "failed"]},
                    "reason": {"type": "string"},
                    "required": {"type": "boolean"},
                },
                "required": ["condition", "reason", "required"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["ready", "phase", "components"],
    "additionalProperties": False,
}
_TEXT: dict[str, Any] = {"type": "string"}


def describe() -> dict[str, Any]:
    """OpenAPI 3.1 of the whole server, the page apart."""
    schemas: dict[str, Any] = {"Error": _ERROR, "Switches": _SWITCHES, "Readiness": _READY}
    state = _schema(ServiceState, schemas)
    lanes = _schema(tuple[LaneStatus, ...], schemas)
    decisions = _schema(list[DecisionView], schemas)
    points = _schema(list[Point], schemas)
    asked = _schema(ControlRequest, schemas)
    switches = {"$ref": f"{_SCHEMAS}Switches"}
    ready = {"$ref": f"{_SCHEMAS}Readiness"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "streamspec",
            "version": streamspec.__version__,
            "description": "A running service. With `admin.token` set, everything but the health checks asks for it.",
        },
        "paths": {
            "/livez": {"get": _get("The event loop turns", _object("alive", {"const": True}), open_=True)},
            "/readyz": {"get": _get("Whether it is ready, and each component", ready, not_ready=ready, open_=True)},
            "/metrics": {"get": _get("Prometheus metrics", _TEXT, kind="text/plain")},
            "/version": {"get": _get("Versions", _object("streamspec", _TEXT, "python", _TEXT))},
            "/api/v1/state": {"get": _get("Everything, as of the last second", state)},
            "/api/v1/lanes": {"get": _get("The lanes alone", lanes)},
            "/api/v1/decisions": {
                "get": _get("The last decisions, the newest first", decisions, query=_page(KEPT_DECISIONS))
            },
            "/api/v1/history": {"get": _get("A point per second, the oldest first", points, query=_page(KEPT_SECONDS))},
            "/api/v1/events": {
                "get": _get(
                    "Server-sent events: `state` and `point` every second, `decision` as they come",
                    _TEXT,
                    kind="text/event-stream",
                )
            },
            "/api/v1/control": {
                "get": _get("What may be switched, as it is", switches),
                "post": {
                    "summary": "Another mode of the controller; learning paused or resumed",
                    "security": [{"token": []}],
                    "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
                    "responses": {
                        "200": _answer("As it is now", switches),
                        **{code: _failed(why) for code, why in _POST_FAILURES.items()},
                    },
                },
            },
            "/api/v1/openapi.json": {"get": _get("This description", {"type": "object"})},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_POST_FAILURES = {
    "401": "The token is missing or wrong",
    "403": "No token is configured, so nothing can be changed",
    "409": "This service has nothing to switch there",
    "413": "The body is too large",
    "415": "Not application/json",
    "422": "Not what is described here",
}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema(mode="serialization", ref_template=_SCHEMAS + "{model}")
    for name, part in schema.pop("$defs", {}).items():
        schemas[name] = _closed(part)
    title = schema.get("title")
    if title is None or schema.get("type") != "object":
        return schema
    schemas[title] = _closed(schema)
    return {"$ref": _SCHEMAS + title}


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "additionalProperties": False} if "properties" in schema else schema


def _object(*names_and_schemas: Any) -> dict[str, Any]:
    properties = dict(zip(names_and_schemas[::2], names_and_schemas[1::2], strict=True))
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _get(
    summary: str,
    schema: dict[str, Any],
    *,
    kind: str = "application/json",
    not_ready: dict[str, Any] | None = None,
    query: list[dict[str, Any]] | None = None,
    open_: bool = False,
) -> dict[str, Any]:
    responses = {"200": _answer(summary, schema, kind)}
    if not_ready is not None:
        responses["503"] = _answer("Not ready", not_ready)
    if query:
        responses["400"] = _failed("A parameter is out of range")
    if kind == "text/event-stream":
        responses["503"] = _failed("Too many readers")
    if not open_:
        responses["401"] = _failed("The token is missing or wrong")
    described: dict[str, Any] = {"summary": summary, "responses": responses}
    if query:
        described["parameters"] = query
    if not open_:
        described["security"] = [{}, {"token": []}]
    return described


def _answer(summary: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": summary, "content": {kind: {"schema": schema}}}


def _failed(why: str) -> dict[str, Any]:
    return _answer(why, {"$ref": f"{_SCHEMAS}Error"})


def _page(most: int) -> list[dict[str, Any]]:
    limits = {"limit": (1, most, "Most to give."), "before": (0, 1 << 53, "Only those before this number or time.")}
    return [
        {
            "name": name,
            "in": "query",
            "description": text,
            "schema": {"type": "integer", "minimum": least, "maximum": largest},
        }
        for name, (least, largest, text) in limits.items()
    ]


def description_text() -> str:
    """Content of ``openapi.json``."""
    return json.dumps(describe(), indent=1) + "\n"


if __name__ == "__main__":
    print(description_text(), end="")
