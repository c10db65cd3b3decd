"""Where to send or listen: ``udp://host:port``, ``tcp://host:port?framing=length|newline``."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from loadgen.errors import Unreachable, UsageError

FRAMINGS = ("length", "newline")
LARGEST_DATAGRAM = 65507
"""What IPv4 leaves of 65,535 bytes."""
LARGEST_FRAME = 1 << 24


@dataclass(frozen=True)
class Target:
    """One end point.

    Attributes:
        scheme: ``udp`` or ``tcp``.
        framing: of tcp: ``length`` (four bytes, big-endian) or ``newline``.
    """

    scheme: str
    host: str
    port: int
    framing: str = "length"

    @property
    def largest_bytes(self) -> int:
        """The longest message that fits."""
        return LARGEST_DATAGRAM if self.scheme == "udp" else LARGEST_FRAME

    @property
    def lines(self) -> bool:
        """Whether messages must not contain line ends."""
        return self.scheme == "tcp" and self.framing == "newline"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        framing = f"?framing={self.framing}" if self.scheme == "tcp" else ""
        return f"{self.scheme}://{host}:{self.port}{framing}"

    def resolve(self) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
        """Family and address for ``socket``; raises Unreachable when the name has none."""
        kind = socket.SOCK_DGRAM if self.scheme == "udp" else socket.SOCK_STREAM
        try:
            found = socket.getaddrinfo(self.host, self.port, type=kind)
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{self}: cannot resolve {self.host!r}: {error}") from None
        address: tuple[str | int, ...] = tuple(found[0][4])  # type: ignore[arg-type]
        return found[0][0], address


def parse_target(text: str, *, listening: bool = False) -> Target:
    """A target from its URL; raises UsageError with what is allowed. Listening allows port 0."""
    allowed = "udp://HOST:PORT or tcp://HOST:PORT?framing=length|newline"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise UsageError(f"not a target: {text!r} ({error}); give {allowed}") from None
    if parts.scheme not in ("udp", "tcp") or not host or port is None or (port == 0 and not listening) or parts.path:
        raise UsageError(f"not a target: {text!r}; give {allowed}")
    framing = options.pop("framing", ["length"])
    if options or len(framing) != 1 or framing[0] not in FRAMINGS:
        raise UsageError(f"{text!r}: the only option is framing=length or framing=newline, for tcp; give {allowed}")
    if parts.scheme == "udp" and parts.query:
        raise UsageError(f"{text!r}: udp takes no options")
    return Target(parts.scheme, host, port, framing[0])
