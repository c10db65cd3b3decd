"""Syslog lines, RFC 5424 and the older RFC 3164."""

from __future__ import annotations

from random import Random

from loadgen.kinds.kind import Kind
from loadgen.kinds.words import hexadecimal, hostname, text

_PROGRAMS = ("sshd", "kernel", "nginx", "systemd", "cron", "postfix/smtpd", "dhcpd", "haproxy", "firewalld")
_EVENTS = (
    "Failed password for invalid user {w} from 192.0.2.{b} port {p} ssh2",
    "Accepted publickey for {w} from 198.51.100.{b} port {p} ssh2: RSA SHA256:{h}",
    "connect from unknown[203.0.113.{b}]",
    "IN=eth0 OUT= SRC=192.0.2.{b} DST=198.51.100.7 LEN=60 TTL=51 PROTO=TCP SPT={p} DPT=22 SYN",
    '192.0.2.{b} - - "GET /{w} HTTP/1.1" 200 {p} "-" "curl/8.5.0"',
    "Started Session {p} of User {w}.",
    "DHCPACK on 10.0.0.{b} to 02:00:{h}",
)
_SHORTEST_BYTES = 16


def generate(rng: Random, size: int) -> bytes:
    """One line without a newline."""
    priority = rng.randrange(24) * 8 + rng.choices(range(8), (1, 1, 2, 6, 12, 20, 50, 8))[0]
    program, process, host = rng.choice(_PROGRAMS), rng.randrange(100, 32768), hostname(rng).split(".")[0]
    clock = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}:{rng.randrange(60):02d}"
    day = rng.randrange(1, 29)
    if rng.random() < 0.6:
        structured = f'[meta@32473 sequence="{rng.randrange(10**6)}"]' if rng.random() < 0.5 else "-"
        head = (
            f"<{priority}>1 2024-05-{day:02d}T{clock}.{rng.randrange(10**6):06d}Z {host} {program} {process} "
            f"ID{rng.randrange(100)} {structured} "
        )
        shortest = f"<{priority}>1 - - - - - - "
    else:
        head = f"<{priority}>May {day:2d} {clock} {host} {program}[{process}]: "
        shortest = f"<{priority}>"
    if len(head) > size:
        head = shortest if len(shortest) <= size else f"<{priority}>"
    return (head + _message(rng, size - len(head))).encode()


def _message(rng: Random, size: int) -> str:
    event = rng.choice(_EVENTS).format(
        w=text(rng, 8).split()[0].strip(".,").lower(),
        b=rng.randrange(256),
        p=rng.randrange(1024, 65536),
        h=hexadecimal(rng, 12),
    )
    return (event + " " + text(rng, size))[:size] if len(event) < size else event[:size]


KIND = Kind("syslog", generate, _SHORTEST_BYTES, 180, 0.4, "syslog lines, RFC 5424 and RFC 3164")
