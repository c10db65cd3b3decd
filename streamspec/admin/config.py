"""Configuration of the HTTP server; its presence switches the server on."""

from __future__ import annotations

import ipaddress

from pydantic import Field, SecretStr, field_validator, model_validator

from streamspec.core.address import Address, split_address
from streamspec.core.component import ComponentConfig

DEFAULT_BIND = "127.0.0.1:9470"
MIN_TOKEN_LENGTH = 16


class AdminConfig(ComponentConfig):
    """Dashboard, API, metrics and health over HTTP."""

    bind: Address = Field(
        default=DEFAULT_BIND,
        description="Address and port (default 127.0.0.1:9470; port 0 takes a free one). Any address that is not "
        "of this machine's loopback needs `token`. Where the default's port is taken, a free one is used and logged; "
        "a port that is written here and taken ends the start.",
    )
    token: SecretStr | None = Field(
        default=None,
        description=f"Asked of everything but the page itself and the health checks, as `Authorization: Bearer "
        f"TOKEN` (at least {MIN_TOKEN_LENGTH} characters; write ${{NAME}} to take it from the environment). Without "
        "it nothing can be changed over HTTP.",
    )
    max_streams: int = Field(
        default=16, ge=1, le=1000, description="Most readers of /api/v1/events at a time (1 to 1000)."
    )

    @field_validator("token")
    @classmethod
    def _token_is_long(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            text = token.get_secret_value()
            if len(text) < MIN_TOKEN_LENGTH or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(f"a token has at least {MIN_TOKEN_LENGTH} printable ASCII characters, no spaces")
        return token

    @model_validator(mode="after")
    def _strangers_need_a_token(self) -> AdminConfig:
        if self.token is None and not self.on_loopback:
            raise ValueError(f"{self.bind} is reachable from other machines: set `token`, or bind to 127.0.0.1")
        return self

    @property
    def on_loopback(self) -> bool:
        """Only this machine can connect."""
        return is_loopback(split_address(self.bind)[0])


def is_loopback(host: str) -> bool:
    """``localhost`` and the addresses of RFC 6890's loopback blocks."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
