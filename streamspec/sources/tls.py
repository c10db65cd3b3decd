"""TLS for sources that listen: certificate, key, and whose clients are let in."""

from __future__ import annotations

import ssl
from typing import Literal

from pydantic import Field

from streamspec.core.component import ComponentConfig
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.paths import InputFile
from streamspec.core.units import Seconds

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ServerTls(ComponentConfig):
    """The listening end of TLS."""

    certificate: InputFile = Field(description="PEM file of the certificate, followed by its chain.")
    key: InputFile = Field(description="PEM file of the private key, not encrypted.")
    client_ca: InputFile | None = Field(
        default=None,
        description="PEM file of the authorities whose client certificates are accepted. Given: a client without a "
        "valid certificate is refused (mutual TLS); not given: clients need none.",
    )
    minimum_version: Literal["1.2", "1.3"] = Field(
        default="1.2", description="Oldest TLS version accepted, 1.2 or 1.3. 1.3 refuses clients from before 2018."
    )
    handshake_timeout: Seconds = Field(
        default=10.0,
        gt=0,
        le=300,
        description="Seconds that a handshake may take (above 0 to 300); then the connection is closed and counted "
        "as `tls_failures`. Shorter frees the places of silent peers sooner.",
    )

    def context(self, where: str) -> ssl.SSLContext:
        """The context for accepted connections.

        Raises:
            DependencyUnavailable: a file is missing or unreadable.
            ConfigError: a file holds no usable certificate or key.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = VERSIONS[self.minimum_version]
        for path in filter(None, (self.certificate, self.key, self.client_ca)):
            try:
                path.open("rb").close()
            except OSError as error:
                raise DependencyUnavailable(
                    f"cannot read a file for TLS: {error.strerror}",
                    where=where,
                    value=str(path),
                    next_step="check the path and its permissions",
                ) from error
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            if self.client_ca is not None:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"the TLS files do not fit: {error}",
                where=where,
                value=str(self.certificate),
                allowed="PEM files of a certificate, of its private key (not encrypted) and of authorities",
                next_step=f"look at them with: openssl x509 -noout -text -in {self.certificate}",
            ) from error
        return context


def _no_password() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")
