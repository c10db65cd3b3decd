"""The HTTP API of a running service, here or elsewhere, as the commands that ask it use it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from streamspec.core.errors import DependencyUnavailable, UsageError

TIMEOUT_SECONDS = 5.0
MAX_ANSWER_BYTES = 16 << 20


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is never carried to another address."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class RunningService:
    """The API of one running service.

    Args:
        url: with or without ``http://``.
        token: of ``admin.token``, if it has one.
        where: the command that asks, for errors.
    """

    def __init__(self, url: str, token: str | None = None, *, where: str) -> None:
        url = url if "://" in url else f"http://{url}"
        if not url.startswith(("http://", "https://")):
            raise UsageError("not an address of a service", where=where, value=url, allowed="http://HOST:PORT")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def get(self, path: str) -> Any:
        """Decoded JSON. Raises DependencyUnavailable with what to do about it."""
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return _harmless(json.loads(answer.read(MAX_ANSWER_BYTES)))
        except urllib.error.HTTPError as error:
            with error:
                raise self._unavailable(f"it answers {error.code}", _ADVICE.get(error.code)) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise self._unavailable(
                f"cannot be asked: {reason}", "start one with `admin: {}`, or name its URL"
            ) from None

    def _unavailable(self, what: str, next_step: str | None) -> DependencyUnavailable:
        return DependencyUnavailable(what, where=self.url, next_step=next_step)


def _harmless(value: Any) -> Any:
    """Without characters that command a terminal: a service elsewhere is not trusted with this one."""
    if isinstance(value, str):
        return "".join(character for character in value if character.isprintable())
    if isinstance(value, list):
        return [_harmless(part) for part in value]
    if isinstance(value, dict):
        return {_harmless(name): _harmless(part) for name, part in value.items()}
    return value


_ADVICE = {
    401: "pass --token or set STREAMSPEC_TOKEN",
    404: "is this the admin address of a streamspec service?",
    421: "use the loopback address, or bind `admin` to an address with a token",
}
