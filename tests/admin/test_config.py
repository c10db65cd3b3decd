"""Who can reach the server is settled before it starts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from streamspec.admin.config import AdminConfig
from streamspec.config import ConfigurationRefused, parse_config

SERVICE = "sources: {packets: {type: udp, bind: '127.0.0.1:0'}}\nsinks: {out: {type: null}}\n"


def test_without_the_section_no_port_is_opened() -> None:
    assert parse_config(SERVICE, origin="x").admin is None


def test_an_empty_section_serves_on_loopback() -> None:
    admin = parse_config(SERVICE + "admin: {}\n", origin="x").admin
    assert admin is not None
    assert admin.bind == "127.0.0.1:9470"


@pytest.mark.parametrize("bind", ["0.0.0.0:9470", "192.0.2.1:80", "[::]:9470", "example.org:9470"])
def test_an_address_that_others_reach_needs_a_token(bind: str) -> None:
    with pytest.raises(ValidationError, match="set `token`"):
        AdminConfig(bind=bind)
    assert AdminConfig.model_validate({"bind": bind, "token": "0123456789abcdef"}).token is not None


@pytest.mark.parametrize("bind", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_loopback_needs_none(bind: str) -> None:
    AdminConfig(bind=bind)


@pytest.mark.parametrize("token", ["short", "with spaces in the middle", "ümläütsümläütsümläüts"])
def test_a_token_that_does_not_travel_in_a_header_is_refused(token: str) -> None:
    with pytest.raises(ValidationError, match="at least 16"):
        AdminConfig.model_validate({"token": token})


def test_the_token_comes_from_the_environment_and_is_never_shown() -> None:
    text = SERVICE + "admin: {bind: '0.0.0.0:9470', token: '${SECRET}'}\n"
    config = parse_config(text, origin="x", environment={"SECRET": "do-not-tell-this-to-anyone"})
    assert "do-not-tell" not in repr(config) + config.model_dump_json()
    with pytest.raises(ConfigurationRefused) as refused:
        parse_config(text + "nonsense: 1\n", origin="x", environment={"SECRET": "too short"})
    assert "too short" not in str(refused.value)
