"""Health, metrics and the API under ``/api/v1``. What is asked often is encoded once a second, not per request."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path
from typing import Any, Literal

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

import streamspec
from streamspec.admin.guard import HEADERS, refuse
from streamspec.telemetry.decisions import KEPT_DECISIONS, DecisionView
from streamspec.telemetry.exposition import Exposition
from streamspec.telemetry.history import KEPT_SECONDS, History
from streamspec.telemetry.state import Controls, NotControllable, ServiceState, StateReader

OPEN_PATHS = frozenset({"/livez", "/readyz"})
STREAM_BACKLOG = 64
"""Events that a slow reader of ``/api/v1/events`` may be behind before it is let go."""

FRESH_SECONDS = 0.1
"""What was read so short a time ago is given again, so that many askers cost no more than ten a second."""

DESCRIPTION = Path(__file__).parent / "openapi.json"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ControlRequest(BaseModel):
    """Body of ``POST /api/v1/control``; what is absent stays as it is."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["off", "recommend", "auto"] | None = None
    learning: Literal["run", "pause"] | None = None


class Stream:
    """One reader of the events."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(STREAM_BACKLOG)

    def put(self, event: bytes) -> bool:
        """False when the reader is too slow and has been told to come again."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            return False
        return True

    def end(self) -> None:
        """Let the reader go, whatever it has not read."""
        while not self.queue.empty():
            self.queue.get_nowait()
        self.queue.put_nowait(None)


class Api:
    """Answers for one reader.

    Args:
        reader: of the running service.
        controls: what POST may switch.
        max_streams: most readers of the events.
    """

    def __init__(self, reader: StateReader, controls: Controls, max_streams: int) -> None:
        self._reader = reader
        self._controls = controls
        self._max_streams = max_streams
        self._exposition = Exposition(reader)
        self._history = History()
        self._streams: set[Stream] = set()
        self._state: ServiceState | None = None
        self._encoded_state = b""
        self._rendering: asyncio.Task[bytes] | None = None
        self._rendered_at = 0.0
        self._read_at = 0.0
        reader.decisions.listeners.append(self._decided)

    def close(self) -> None:
        """End the streams."""
        self._reader.decisions.listeners.remove(self._decided)
        for stream in self._streams:
            stream.end()

    def forget(self) -> None:
        """Let go of the service once nobody can ask any more: aiohttp remembers every handler of an application
        with middlewares for good, and what they belong to must not live as long."""
        del self._reader, self._controls, self._exposition

    def tick(self) -> None:
        """Once a second: read, remember, tell the streams."""
        point = self._history.add(self._keep(self._reader.tick()))
        if self._streams:
            self._tell(_event("state", self._encoded()) + _event("point", point))

    def routes(self) -> list[web.RouteDef]:
        """Everything but the page."""
        return [
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/version", self.version),
            web.get("/api/v1/state", self.state),
            web.get("/api/v1/lanes", self.lanes),
            web.get("/api/v1/decisions", self.decisions),
            web.get("/api/v1/history", self.history),
            web.get("/api/v1/events", self.events),
            web.get("/api/v1/control", self.control),
            web.post("/api/v1/control", self.switch),
            web.get("/api/v1/openapi.json", self.description),
        ]

    # -- health, metrics ----------------------------------------------------------------------
    async def livez(self, request: web.Request) -> web.Response:
        """The event loop turns; that is all it says."""
        return _json({"alive": True})

    async def readyz(self, request: web.Request) -> web.Response:
        """200 when everything that is required is there, else 503; each component with its reason."""
        state = self._fresh()
        body = {
            "ready": not state.not_ready,
            "phase": state.phase,
            "components": {
                part.component: {"condition": part.condition, "reason": part.reason, "required": part.required}
                for part in state.health
            },
        }
        return _json(body, 503 if state.not_ready else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """For scrapers; those that come together share one reading."""
        now = asyncio.get_running_loop().time()
        if self._rendering is None or (self._rendering.done() and now - self._rendered_at > FRESH_SECONDS):
            self._rendering = asyncio.create_task(self._exposition.render())
            self._rendered_at = now
        text = await asyncio.shield(self._rendering)
        return web.Response(body=text, headers={"Content-Type": METRICS_TYPE})

    async def version(self, request: web.Request) -> web.Response:
        """Versions."""
        return _json({"streamspec": streamspec.__version__, "python": platform.python_version()})

    # -- the API ------------------------------------------------------------------------------
    async def state(self, request: web.Request) -> web.Response:
        """Everything, as of the last second."""
        return web.Response(body=self._encoded(), content_type="application/json")

    async def lanes(self, request: web.Request) -> web.Response:
        """The lanes alone."""
        return _json(self._fresh().lanes)

    async def decisions(self, request: web.Request) -> web.Response:
        """The last decisions, the newest first."""
        limit = _number(request, "limit", 1, KEPT_DECISIONS) or 100
        return _json(self._reader.decisions.last(limit, _number(request, "before", 0, 1 << 53)))

    async def history(self, request: web.Request) -> web.Response:
        """Points of the last hour, the oldest first."""
        limit = _number(request, "limit", 1, KEPT_SECONDS) or KEPT_SECONDS
        points = self._history.encoded(limit, _number(request, "before", 0, 1 << 53))
        return web.Response(body=points, content_type="application/json")

    async def control(self, request: web.Request) -> web.Response:
        """What may be switched, as it is."""
        return _json(self._switches(self._fresh()))

    async def switch(self, request: web.Request) -> web.Response:
        """Another mode, learning paused or resumed."""
        if request.content_type != "application/json":
            return refuse(415, "send application/json")
        try:
            wanted = ControlRequest.model_validate_json(await request.read())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return refuse(422, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
        try:
            if wanted.mode is not None:
                self._controls.set_mode(wanted.mode)
            if wanted.learning is not None:
                self._controls.pause_learning(wanted.learning == "pause")
        except NotControllable as error:
            return refuse(409, str(error))
        return _json(self._switches(self._keep(self._reader.read())))

    async def description(self, request: web.Request) -> web.Response:
        """OpenAPI 3.1."""
        return web.Response(body=DESCRIPTION.read_bytes(), content_type="application/json")

    # -- events -------------------------------------------------------------------------------
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: ``state`` and ``point`` every second, ``decision`` as they come."""
        if len(self._streams) >= self._max_streams:
            return refuse(503, f"{self._max_streams} readers are here already (admin.max_streams)")
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        stream = Stream()
        stream.put(_event("state", self._encoded()))
        self._streams.add(stream)
        try:
            while (event := await stream.queue.get()) is not None:
                await response.write(event)
        except ConnectionError:
            pass
        finally:
            self._streams.discard(stream)
        return response

    def _decided(self, decision: DecisionView) -> None:
        if self._streams:
            self._tell(_event("decision", _encode(decision)))

    def _tell(self, event: bytes) -> None:
        for stream in [stream for stream in self._streams if not stream.put(event)]:
            self._streams.discard(stream)
            stream.end()

    # -- what is kept -------------------------------------------------------------------------
    @property
    def _present(self) -> ServiceState:
        return self._state or self._keep(self._reader.read())

    def _fresh(self) -> ServiceState:
        if asyncio.get_running_loop().time() - self._read_at > FRESH_SECONDS:
            return self._keep(self._reader.read())
        return self._present

    def _keep(self, state: ServiceState) -> ServiceState:
        self._state = state
        self._encoded_state = b""
        self._read_at = asyncio.get_running_loop().time()
        return state

    def _encoded(self) -> bytes:
        if not self._encoded_state:
            self._encoded_state = _encode(self._present)
        return self._encoded_state

    def _switches(self, state: ServiceState) -> dict[str, Any]:
        learning = None if state.learning is None else ("pause" if state.learning.paused else "run")
        return {"mode": state.control.mode, "learning": learning}


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=_encode(document), status=status, content_type="application/json")


def _encode(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def _event(name: str, content: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + content + b"\n\n"


def _number(request: web.Request, name: str, least: int, most: int) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise web.HTTPBadRequest(reason=f"{name}: a whole number from {least} to {most}")
    return int(text)
