"""Who may ask what: the Host check against DNS rebinding, the token, and headers that every answer carries."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from streamspec.admin.config import AdminConfig, is_loopback

_log = structlog.get_logger("streamspec.admin")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "streamspec",
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def refuse(status: int, error: str) -> web.Response:
    """An error as JSON."""
    return web.json_response({"error": error}, status=status)


def guarded(config: AdminConfig, open_paths: frozenset[str]) -> Middleware:
    """The middleware in front of every answer.

    Args:
        config: with the token, if any.
        open_paths: what needs no token: the page, which says nothing of the service, and the health checks.
    """
    token = None if config.token is None else config.token.get_secret_value().encode()

    def refusal(request: web.Request) -> web.Response | None:
        if config.on_loopback and not _is_named_as_loopback(request.headers.get("Host", "")):
            return refuse(421, "this server answers to localhost and loopback addresses only")
        if request.method == "POST" and token is None:
            return refuse(403, "nothing can be changed over HTTP unless admin.token is set")
        if token is not None and request.path not in open_paths and not _has_token(request, token):
            answer = refuse(401, "send the token of admin.token as `Authorization: Bearer TOKEN`")
            answer.headers["WWW-Authenticate"] = 'Bearer realm="streamspec"'
            return answer
        return None

    @web.middleware
    async def check(request: web.Request, handler: Answer) -> web.StreamResponse:
        response: web.StreamResponse | None = refusal(request)
        if response is None:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = refuse(error.status, error.reason.lower())
                if "Allow" in error.headers:
                    response.headers["Allow"] = error.headers["Allow"]
            except Exception as error:
                _log.exception("a request could not be answered", path=request.path, reason=repr(error))
                response = refuse(500, "internal error; the log has it")
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    return check


def _is_named_as_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return is_loopback(name.removeprefix("[").removesuffix("]"))


def _has_token(request: web.Request, token: bytes) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(errors="replace"), token)
