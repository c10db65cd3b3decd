"""What dispatcher and learner say to each other over their socket; outcomes go through the ring.

Each message is one JSON object. A snapshot travels in a memory file beside its message, whatever its size.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from streamspec.core.prediction import Head

MESSAGE_BYTES = 65536


def encode(content: Mapping[str, Any]) -> bytes:
    """One message."""
    return json.dumps(content, separators=(",", ":")).encode()[:MESSAGE_BYTES]


def decode(message: bytes) -> dict[str, Any]:
    """A message of :func:`encode`; empty when it is none."""
    try:
        content = json.loads(message)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def send_file(connection: socket.socket, content: Mapping[str, Any], body: bytes) -> bool:
    """Send a message with ``body`` in a file; False when the receiver has too much unread already."""
    fd = memory_file("streamspec-snapshot", body)
    try:
        socket.send_fds(connection, [encode({**content, "bytes": len(body)})], [fd], socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def memory_file(name: str, body: bytes) -> int:
    """Descriptor of a file in memory with ``body``."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    written = 0
    while written < len(body):
        written += os.write(fd, memoryview(body)[written:])
    return fd


def read_file(fd: int, size: int) -> bytes:
    """What :func:`memory_file` wrote."""
    parts, position = [], 0
    while position < size:
        part = os.pread(fd, size - position, position)
        if not part:
            break
        parts.append(part)
        position += len(part)
    return b"".join(parts)


def heads_to_json(heads: tuple[Head, ...]) -> list[dict[str, Any]]:
    """Heads for the specification of a learner."""
    return [asdict(head) for head in heads]


def heads_from_json(heads: list[dict[str, Any]]) -> tuple[Head, ...]:
    """The heads of :func:`heads_to_json`."""
    return tuple(Head(**head) for head in heads)
