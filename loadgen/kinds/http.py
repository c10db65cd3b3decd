"""HTTP/1.1 requests and responses with HTML (RFC 9112): text, much repetition."""

from __future__ import annotations

from random import Random

from loadgen.kinds.kind import Kind
from loadgen.kinds.words import hexadecimal, hostname, path, text, words

_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:{v}.0) Gecko/20100101 Firefox/{v}.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{v}.0.0.0 Safari/537.36",
    "curl/8.{v}.0",
    "python-requests/2.{v}.0",
)
_BRIEF_BYTES = 320
"""Below this a message is a request or a response without the usual headers."""
_SHORTEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def generate(rng: Random, size: int) -> bytes:
    """One request, or one response whose body is as long as its Content-Length says."""
    if size < _BRIEF_BYTES:
        return _brief(rng, size)
    return _request(rng, size) if rng.random() < 0.3 else _response(rng, size)


def _brief(rng: Random, size: int) -> bytes:
    """A request whose path fills it up."""
    start, end = b"GET /", f" HTTP/1.1\r\nHost: {hostname(rng)}\r\n\r\n".encode()
    if size < len(start) + len(end):
        end = b" HTTP/1.1\r\nHost: a\r\n\r\n"
    return start + _slug(rng, size - len(start) - len(end)) + end


def _slug(rng: Random, size: int) -> bytes:
    return "-".join(words(rng, size // 3 + 1)).encode()[:size].ljust(size, b"x")


def _request(rng: Random, size: int) -> bytes:
    agent = rng.choice(_AGENTS).format(v=rng.randrange(90, 130))
    head = (
        f"GET {path(rng)} HTTP/1.1\r\nHost: {hostname(rng)}\r\nUser-Agent: {agent}\r\n"
        f"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
        f"Connection: keep-alive\r\nCookie: session={hexadecimal(rng, 32)}; pref="
    ).encode()
    if len(head) + 4 > size:
        return _brief(rng, size)
    return head + _slug(rng, size - len(head) - 4) + b"\r\n\r\n"


def _response(rng: Random, size: int) -> bytes:
    status = rng.choices(("200 OK", "404 Not Found", "302 Found", "500 Internal Server Error"), (90, 6, 3, 1))[0]
    head = (
        f"HTTP/1.1 {status}\r\nDate: Tue, {rng.randrange(1, 29):02d} May 2024 {rng.randrange(24):02d}:"
        f"{rng.randrange(60):02d}:{rng.randrange(60):02d} GMT\r\nServer: nginx/1.{rng.randrange(14, 27)}.0\r\n"
        f'Content-Type: text/html; charset=utf-8\r\nETag: "{hexadecimal(rng, 16)}"\r\nContent-Length: '
    ).encode()
    rest = size - len(head) - 4
    digits = len(str(rest))
    body = rest - digits
    return head + str(body).zfill(digits).encode() + b"\r\n\r\n" + _html(rng, body)


def _html(rng: Random, size: int) -> bytes:
    start = f"<!DOCTYPE html><html><head><title>{text(rng, 20)}</title></head><body>\n"
    end = "</body></html>\n"
    parts = [start]
    have = len(start) + len(end)
    while have < size:
        inner = text(rng, rng.randrange(40, 160))
        tag = rng.choice(("p", "li", "td", "h2", "span"))
        part = f'<{tag} class="{rng.choice(("main", "item", "note", "wide"))}">{inner}</{tag}>\n'
        if rng.random() < 0.25:
            part = f'<a href="https://{hostname(rng)}{path(rng)}">{inner[:24]}</a>\n'
        parts.append(part)
        have += len(part)
    return ("".join(parts)[: max(0, size - len(end))] + end)[:size].encode()


KIND = Kind("http", generate, len(_SHORTEST), 900, 0.8, "HTTP/1.1 requests and HTML responses")
