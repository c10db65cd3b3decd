"""Network namespaces of a test's own. Needs root and iproute2; each is deleted in any case."""

from __future__ import annotations

import ctypes
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def network_namespace() -> Iterator[str]:
    """A new, empty namespace; its name. Without IPv6 autoconfiguration, so that it stays silent."""
    name = f"streamspec-{uuid.uuid4().hex[:12]}"
    _run("ip", "netns", "add", name)
    try:
        with inside(name):
            for scope in ("all", "default"):
                with open(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6", "w", encoding="ascii") as file:
                    file.write("1")
        yield name
    finally:
        _run("ip", "netns", "del", name)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread is in the namespace; sockets that it opens stay there."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    after = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(after)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(after)
        os.close(before)


def ip(namespace: str, *arguments: str) -> None:
    """``ip ARGUMENTS`` in the namespace."""
    _run("ip", "-n", namespace, *arguments)


def add_pair(namespace: str, first: str, second: str) -> None:
    """Two connected Ethernet interfaces, both up."""
    ip(namespace, "link", "add", first, "type", "veth", "peer", "name", second)
    ip(namespace, "link", "set", first, "up")
    ip(namespace, "link", "set", second, "up")


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
