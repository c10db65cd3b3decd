"""The HTTP server: opened before the workers are warm, so that a probe can see the start, and closed last."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import structlog
from aiohttp import web

from streamspec.admin.api import OPEN_PATHS, Api
from streamspec.admin.config import AdminConfig
from streamspec.admin.guard import guarded
from streamspec.core.address import join_address, split_address
from streamspec.core.errors import DependencyUnavailable
from streamspec.telemetry.state import Controls, StateReader

_log = structlog.get_logger("streamspec.admin")

PAGE = Path(__file__).parent / "page"
MAX_BODY_BYTES = 4096
BACKLOG = 64


class AdminServer:
    """Serves one reader.

    Args:
        config: where and to whom.
        reader: of the running service; :meth:`StateReader.tick` is called from here, once a second.
        controls: what POST may switch.

    Attributes:
        url: where it listens, once open.
    """

    def __init__(self, config: AdminConfig, reader: StateReader, controls: Controls) -> None:
        self.url = ""
        self._config = config
        self._api = Api(reader, controls, config.max_streams)
        pages = page_routes()
        app = web.Application(
            middlewares=[guarded(config, OPEN_PATHS | {route.path for route in pages})],
            client_max_size=MAX_BODY_BYTES,
        )
        app.add_routes([*self._api.routes(), *pages])
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=1.0)
        self._ticking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Bind and begin to serve. Raises DependencyUnavailable when the address cannot be had."""
        listening = _bind(self._config)
        try:
            await self._runner.setup()
            await web.SockSite(self._runner, listening, backlog=BACKLOG).start()
        except BaseException:
            listening.close()
            raise
        host, port = listening.getsockname()[:2]
        self.url = f"http://{join_address(host, port)}/"
        self._ticking = asyncio.create_task(self._tick(), name="admin tick")
        _log.info("dashboard", url=self.url)

    async def close(self) -> None:
        """End streams and connections."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        self._api.close()
        await self._runner.cleanup()
        self._api.forget()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                self._api.tick()
            except Exception as error:  # what is shown must never end what is done
                _log.exception("reading the state failed", reason=repr(error))
            due = max(due + 1.0, loop.time())
            await asyncio.sleep(due - loop.time())


def _bind(config: AdminConfig) -> socket.socket:
    host, port = split_address(config.bind)
    try:
        return _listening(host, port)
    except OSError as error:
        if "bind" not in config.model_fields_set:
            with contextlib.suppress(OSError):
                _log.warning("the default port is taken, using a free one", bind=config.bind)
                return _listening(host, 0)
        raise DependencyUnavailable(
            f"cannot listen: {error.strerror or error}",
            where="admin.bind",
            value=config.bind,
            next_step="choose another port, or 0 for a free one",
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def page_routes() -> list[web.RouteDef]:
    """The dashboard's files, read once."""

    def serve(path: Path) -> web.RouteDef:
        body, kind = path.read_bytes(), _TYPES[path.suffix]

        async def answer(request: web.Request) -> web.Response:
            return web.Response(body=body, content_type=kind, charset="utf-8")

        return web.get("/" if path.name == "index.html" else f"/{path.name}", answer)

    return [serve(path) for path in sorted(PAGE.iterdir()) if path.suffix in _TYPES]
