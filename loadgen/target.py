"""Where to send or listen: ``udp://host:port``, ``tcp://host:port?framing=length|newline``, and where to send or
read: ``kafka://host:port/topic``."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from loadgen.errors import Unreachable, UsageError

FRAMINGS = ("length", "newline")
LARGEST_DATAGRAM = 65507
"""What IPv4 leaves of 65,535 bytes."""
LARGEST_FRAME = 1 << 24
LARGEST_RECORD = 1_000_000
"""A little below what brokers take by default."""
KAFKA = "kafka://"
_KAFKA_OPTIONS = {
    "compression": ("none", "gzip", "lz4", "snappy", "zstd"),
    "isolation": ("read_committed", "read_uncommitted"),
}


@dataclass(frozen=True)
class Target:
    """One end point.

    Attributes:
        scheme: ``udp``, ``tcp`` or ``kafka``.
        framing: of tcp: ``length`` (four bytes, big-endian) or ``newline``.
        topic: of kafka.
        compression: of kafka, when sending.
        isolation: of kafka, when reading: whether records of open and aborted transactions are left out.
    """

    scheme: str
    host: str
    port: int
    framing: str = "length"
    topic: str = ""
    compression: str = "none"
    isolation: str = "read_committed"

    @property
    def largest_bytes(self) -> int:
        """The longest message that fits."""
        return {"udp": LARGEST_DATAGRAM, "kafka": LARGEST_RECORD}.get(self.scheme, LARGEST_FRAME)

    @property
    def lines(self) -> bool:
        """Whether messages must not contain line ends."""
        return self.scheme == "tcp" and self.framing == "newline"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        rest = {"tcp": f"?framing={self.framing}", "kafka": f"/{self.topic}"}.get(self.scheme, "")
        return f"{self.scheme}://{host}:{self.port}{rest}"

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
    if text.startswith(KAFKA) and not listening:
        return _kafka_target(text)
    allowed = "udp://HOST:PORT or tcp://HOST:PORT?framing=length|newline"
    allowed += "" if listening else " or kafka://HOST:PORT/TOPIC"
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


def _kafka_target(text: str) -> Target:
    allowed = "kafka://HOST:PORT/TOPIC?compression=lz4&isolation=read_committed"
    try:
        parts = urlsplit(text)
        host, port, topic = parts.hostname, parts.port, parts.path.removeprefix("/")
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise UsageError(f"not a target: {text!r} ({error}); give {allowed}") from None
    if not host or not port or not topic or "/" in topic:
        raise UsageError(f"not a target: {text!r}; give {allowed}")
    for name, values in options.items():
        if name not in _KAFKA_OPTIONS or len(values) != 1 or values[0] not in _KAFKA_OPTIONS[name]:
            raise UsageError(f"{text!r}: {name}={','.join(values)} is not taken; give {allowed}")
    return Target("kafka", host, port, topic=topic, **{name: values[0] for name, values in options.items()})
