"""How a Kafka cluster is reached: addresses, TLS, SASL. Secrets come from the environment or a file."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from streamspec.core.address import Address
from streamspec.core.component import ComponentConfig
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.paths import InputFile
from streamspec.core.units import Seconds
from streamspec.links.tls import ClientTls

CLIENT_NAME = "streamspec"


class Sasl(ComponentConfig):
    """Name and password for the brokers."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512",
        description="How the password is proven. `PLAIN` sends it as it is: use it with `tls` only.",
    )
    username: str = Field(min_length=1, description="Name of the user.")
    password: SecretStr | None = Field(
        default=None,
        description="The password; write `${NAME}` to take it from the environment. It is never shown again.",
    )
    password_file: InputFile | None = Field(
        default=None, description="File that holds the password instead (a newline at its end does not count)."
    )

    @model_validator(mode="after")
    def _one_password(self) -> Sasl:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("give either password or password_file")
        return self

    def secret(self, where: str) -> str:
        """The password.

        Raises:
            DependencyUnavailable: its file cannot be read.
            ConfigError: its file is empty.
        """
        if self.password is not None:
            return self.password.get_secret_value()
        assert self.password_file is not None
        return _read_secret(self.password_file, where)


def _read_secret(path: Path, where: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DependencyUnavailable(
            f"cannot read the password: {getattr(error, 'strerror', None) or 'not UTF-8 text'}",
            where=f"{where}.password_file",
            value=str(path),
            next_step="check the path and its permissions",
        ) from None
    if not text:
        raise ConfigError("the password file is empty", where=f"{where}.password_file", value=str(path))
    return text


def _as_list(value: object) -> object:
    """One address, or several with commas between them, as people write bootstrap servers."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Brokers = Annotated[tuple[Address, ...], BeforeValidator(_as_list), Field(min_length=1)]


class KafkaAccess(ComponentConfig):
    """The part of a configuration that says how to reach the brokers. Sources and sinks inherit it."""

    brokers: Brokers = Field(
        description="Addresses of some brokers, `host:port`, as a list or with commas between them; the others are "
        "found through these.",
    )
    tls: ClientTls | None = Field(default=None, description="TLS towards the brokers; unset: plain TCP.")
    sasl: Sasl | None = Field(default=None, description="Name and password for the brokers; unset: anonymous.")
    connect_timeout: Seconds = Field(
        default=15.0,
        ge=0,
        le=86_400,
        description="Seconds that the start waits for a broker that does not answer (0 to 86400); then the service "
        "ends with exit code 69. While it runs, it waits for as long as it takes.",
    )
    request_timeout: Seconds = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Seconds after which a request without an answer is sent anew (1 to 3600). Shorter notices a "
        "dead broker sooner, and repeats more towards a slow one.",
    )

    def client_options(self, where: str) -> dict[str, Any]:
        """Keyword arguments that every aiokafka client takes.

        Raises:
            DependencyUnavailable: a file is missing.
            ConfigError: a file is not what it should be.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.brokers),
            "client_id": f"{CLIENT_NAME}-{where}",
            "request_timeout_ms": round(self.request_timeout * 1000),
            "security_protocol": self.security_protocol,
        }
        if self.tls is not None:
            options["ssl_context"] = self._tls_context(f"{where}.tls")
        if self.sasl is not None:
            options["sasl_mechanism"] = self.sasl.mechanism
            options["sasl_plain_username"] = self.sasl.username
            options["sasl_plain_password"] = self.sasl.secret(f"{where}.sasl")
        return options

    def _tls_context(self, where: str) -> ssl.SSLContext:
        assert self.tls is not None
        if self.tls.server_name is not None:
            raise ConfigError(
                "brokers are known by the names that they announce",
                where=f"{where}.server_name",
                value=self.tls.server_name,
                next_step="leave it out; let the certificates bear the names in advertised.listeners",
            )
        return self.tls.context(where)

    @property
    def security_protocol(self) -> str:
        """As Kafka names it."""
        if self.sasl is None:
            return "PLAINTEXT" if self.tls is None else "SSL"
        return "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL"
