"""Certificates made on the spot, for tests of TLS (needs the ``cryptography`` package)."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_VALID_TO = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Leaf:
    """PEM files of one end."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in ``folder``; ``certificate`` is its PEM file."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), True
        )
        usage = dict.fromkeys(("content_commitment", "data_encipherment", "encipher_only", "decipher_only"), False)
        usage |= dict.fromkeys(("digital_signature", "key_encipherment", "key_agreement"), False)
        made = made.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True)
        signed = made.sign(self._key, hashes.SHA256())
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> Leaf:
        """A certificate for ``localhost`` and the loopback addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        addresses = [x509.IPAddress(ipaddress.ip_address(a)) for a in ("127.0.0.1", "::1")]
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses])
        signed = self._builder(subject, key).add_extension(names, False).sign(self._key, hashes.SHA256())
        leaf = Leaf(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        leaf.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        leaf.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return leaf

    def client_context(self, leaf: Leaf | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority and shows ``leaf``, if given."""
        context = ssl.create_default_context(cafile=self.certificate)
        if leaf is not None:
            context.load_cert_chain(leaf.certificate, leaf.key)
        return context

    def server_context(self, leaf: Leaf) -> ssl.SSLContext:
        """For a server that shows ``leaf``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(leaf.certificate, leaf.key)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        return builder.not_valid_before(_VALID_FROM).not_valid_after(_VALID_TO)
