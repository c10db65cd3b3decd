"""Addresses as text."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from streamspec.core.address import Address, join_address, split_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", ("127.0.0.1", 9000)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("collector.example:514", ("collector.example", 514)),
    ],
)
def test_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address
    assert join_address(*address) == text
    assert TypeAdapter(Address).validate_python(text) == text


@pytest.mark.parametrize(
    "text", ["", "9000", ":9000", "host:", "host:70000", "::1:80", "[::1]", "a b:1", "http://h:1", "h:1\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a host and a port"):
        split_address(text)
    with pytest.raises(ValidationError):
        TypeAdapter(Address).validate_python(text)


def test_a_mapped_address_is_shown_as_ipv4() -> None:
    assert join_address("::ffff:10.0.0.1", 1) == "10.0.0.1:1"
