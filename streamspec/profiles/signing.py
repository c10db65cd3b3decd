"""Authenticity of what is stored: HMAC-SHA256 (RFC 2104) with a key that lies beside the database.

The key is the text of ``NAME.key``, made at first use and readable by its owner alone. In its place comes, in
this order: what the caller gives, the text of ``STREAMSPEC_PROFILES_KEY``, the file named by
``STREAMSPEC_PROFILES_KEY_FILE``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from streamspec.profiles.refusals import ContentRefused, DatabaseUnusable

KEY_VARIABLE = "STREAMSPEC_PROFILES_KEY"
KEY_FILE_VARIABLE = "STREAMSPEC_PROFILES_KEY_FILE"
MIN_KEY_BYTES = 32
_MAX_KEY_BYTES = 4096


class SigningKey:
    """A secret that signs and checks.

    Args:
        secret: at least ``MIN_KEY_BYTES`` bytes.

    Raises:
        ContentRefused: the secret is too short to be one.
    """

    __slots__ = ("_secret", "identity")

    def __init__(self, secret: bytes, source: str = "key") -> None:
        if len(secret) < MIN_KEY_BYTES:
            raise ContentRefused(
                f"the key that signs stored models has {len(secret)} bytes",
                where=source,
                allowed=f"at least {MIN_KEY_BYTES} bytes",
                next_step="make one with `python -c 'import secrets; print(secrets.token_hex(32))'`",
            )
        self._secret = secret
        self.identity: str = self.sign(b"identity of the key")[:8].hex()
        """Tells keys apart without telling the key."""

    def sign(self, *parts: bytes) -> bytes:
        """32 bytes; parts are told apart by their lengths."""
        mac = hmac.new(self._secret, digestmod=hashlib.sha256)
        for part in parts:
            mac.update(len(part).to_bytes(8, "big"))
            mac.update(part)
        return mac.digest()

    def check(self, signature: bytes, *parts: bytes) -> bool:
        """Whether ``signature`` is this key's of ``parts``; takes the same time wherever they differ."""
        return hmac.compare_digest(signature, self.sign(*parts))

    def __repr__(self) -> str:
        return f"SigningKey({self.identity})"


def key_path(database: Path) -> Path:
    """Where the key of a database lies unless another is given."""
    return database.with_name(database.name + ".key")


def load_key(
    database: Path,
    given: SigningKey | bytes | Path | None = None,
    *,
    create: bool = True,
    environment: Mapping[str, str] = os.environ,
) -> SigningKey:
    """The key of a database.

    Args:
        database: whose key it is.
        given: a key, its bytes, or the file with its text.
        create: make the file beside the database when there is none.
        environment: where the two variables are looked up.

    Raises:
        ContentRefused: there is no key, or one that others can read, or too short.
        DatabaseUnusable: the file cannot be read or written.
    """
    if isinstance(given, SigningKey):
        return given
    if isinstance(given, bytes):
        return SigningKey(given)
    if given is not None:
        return _read_key(given)
    if text := environment.get(KEY_VARIABLE):
        return SigningKey(text.strip().encode(), KEY_VARIABLE)
    if named := environment.get(KEY_FILE_VARIABLE):
        return _read_key(Path(named))
    path = key_path(database)
    if create and not path.exists():
        _create_key(path)
    return _read_key(path)


def _create_key(path: Path) -> None:
    """Whole or not at all: of several processes that create it at once, one wins and all read that one's."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            os.write(descriptor, secrets.token_hex(32).encode() + b"\n")
            os.fsync(descriptor)
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unreadable(path, error, "written") from error


def _read_key(path: Path) -> SigningKey:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_MAX_KEY_BYTES)
    except FileNotFoundError as error:
        raise ContentRefused(
            "no key to check what is stored with",
            where=str(path),
            next_step=f"put the key file back that the models were stored with, or set {KEY_VARIABLE}",
        ) from error
    except OSError as error:
        raise _unreadable(path, error, "read") from error
    if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise ContentRefused(
            "the key file can be used by others, who could then sign code for this service to load",
            where=str(path),
            value=f"mode {status.st_mode & 0o777:04o}, owner {status.st_uid}",
            allowed="mode 0600, owned by the user of the service or root",
            next_step=f"chmod 600 {path}; if others may have read it, delete it and train anew",
        )
    return SigningKey(text.strip(), str(path))


def _unreadable(path: Path, error: OSError, verb: str) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"the key file cannot be {verb}: {error.strerror}",
        where=str(path),
        next_step=f"make the folder and file accessible to this user, or set {KEY_VARIABLE}",
    )
