"""Addresses as people write them: ``host:port``, with brackets around an IPv6 address."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s:\[\]/]+)):([0-9]{1,5})")


def split_address(text: str) -> tuple[str, int]:
    """``"[::1]:9000"`` -> ``("::1", 9000)``; a host name is left as it is.

    Raises:
        ValueError: not a host and a port from 0 to 65535.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"not a host and a port: {text!r}; write 127.0.0.1:9000, [::1]:9000 or name:9000")
    return match[1] or match[2], int(match[3])


def join_address(host: str, port: int) -> str:
    """``("::1", 9000)`` -> ``"[::1]:9000"``; an IPv4 address mapped into IPv6 (RFC 4291, 2.5.5.2) as IPv4."""
    if host.startswith("::ffff:") and "." in host:
        host = host[len("::ffff:") :]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _checked(text: str) -> str:
    split_address(text)
    return text


Address = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "description": "host:port, such as 127.0.0.1:9000, [::1]:9000 or name:9000"}),
]
"""For configuration models: checked text, to be taken apart with :func:`split_address`."""
