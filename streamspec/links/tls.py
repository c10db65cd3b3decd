"""TLS for whatever connects to a server: whom to trust, and who we are."""

from __future__ import annotations

import ssl
from typing import Literal

from pydantic import Field, model_validator

from streamspec.core.component import ComponentConfig
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.paths import InputFile

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class ClientTls(ComponentConfig):
    """The connecting end of TLS."""

    ca: InputFile | None = Field(
        default=None, description="PEM file of the authorities to trust (unset: those that the system trusts)."
    )
    verify: bool = Field(
        default=True,
        description="Whether the peer's certificate and name are checked. `false` encrypts to whoever answers.",
    )
    server_name: str | None = Field(
        default=None,
        min_length=1,
        description="Name that the certificate must bear, also sent to the peer (unset: the host of `address`).",
    )
    certificate: InputFile | None = Field(
        default=None, description="PEM file of our own certificate, for peers that ask for one (mutual TLS)."
    )
    key: InputFile | None = Field(default=None, description="PEM file of its private key, not encrypted.")
    minimum_version: Literal["1.2", "1.3"] = Field(default="1.2", description="Oldest TLS version used, 1.2 or 1.3.")

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> ClientTls:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or none")
        return self

    def context(self, where: str) -> ssl.SSLContext:
        """The context for connections that we make.

        Raises:
            DependencyUnavailable: a file is missing or unreadable.
            ConfigError: a file holds no usable certificate or key.
        """
        for path in filter(None, (self.ca, self.certificate, self.key)):
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
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"the TLS files do not fit: {error}",
                where=where,
                value=str(self.certificate or self.ca),
                allowed="PEM files of authorities, of a certificate and of its private key (not encrypted)",
                next_step=f"look at them with: openssl x509 -noout -text -in {self.certificate or self.ca}",
            ) from error
        context.minimum_version = VERSIONS[self.minimum_version]
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _no_password() -> str:
    """Without this, OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")
