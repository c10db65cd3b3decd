"""One model in one file, to be carried from one database to another.

Four parts: the line ``streamspec-model 1``, a line with the key's identity and the HMAC of the manifest in hex,
the manifest (JSON, one line), and the content, whose length and digest the manifest says.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamspec.core.errors import UsageError
from streamspec.profiles.manifest import (
    MAX_CONTENT_BYTES,
    check_digest,
    check_signature,
    from_json,
    sealed,
    to_record,
)
from streamspec.profiles.records import PLAIN_KINDS, StoredModel
from streamspec.profiles.refusals import ContentRefused, DatabaseDamaged, DatabaseUnusable
from streamspec.profiles.signing import SigningKey

_MAGIC = b"streamspec-model 1\n"
_PURPOSE = b"model file"
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class CarriedModel(StoredModel):
    """A model from a file; ``key`` identifies the key it was signed with."""

    key: str


def write_model(path: Path, model: Mapping[str, Any], key: SigningKey, *, overwrite: bool) -> None:
    """Write a model, whole or not at all.

    Args:
        path: of the file.
        model: the fields of ``StoredModel``.
        key: signs it.
        overwrite: replace a file that exists.

    Raises:
        UsageError: the file exists and is not to be replaced.
        DatabaseUnusable: it cannot be written.
    """
    content: bytes = model["content"]
    manifest = sealed({k: v for k, v in model.items() if k not in ("content", "role")}, content, str(path))
    seal = f"{key.identity} {key.sign(_PURPOSE, manifest).hex()}\n".encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(b"".join((_MAGIC, seal, manifest, b"\n", content)))
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    except FileExistsError as error:
        raise UsageError(
            "the file exists", where=str(path), next_step="name another one, or add --overwrite"
        ) from error
    except OSError as error:
        raise DatabaseUnusable(f"the model cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_model(path: Path, key: SigningKey, *, trust: bool) -> CarriedModel:
    """Read a model.

    Args:
        path: of the file.
        key: of this database.
        trust: take one that another key signed, if its kind is not unpickled and its content is whole.

    Raises:
        ContentRefused: it is no such file, damaged, not authentic or not trusted.
        DatabaseUnusable: it cannot be read.
    """
    identity, signature, manifest, content = _parts(path)
    try:
        document = from_json(manifest, str(path))
        record = to_record(document, "archived", str(path))
    except DatabaseDamaged as error:
        raise ContentRefused(error.what, where=str(path), next_step="export it again") from error
    try:
        check_signature(key, identity, signature, _PURPOSE, manifest, where=str(path))
    except ContentRefused as refused:
        if identity == key.identity:
            raise  # ours, and changed since: no trust mends that
        _check_trust(refused, record.kind, content, path, trust=trust)
    check_digest(document, content, str(path))
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return CarriedModel(**fields, content=content, key=identity)


def _parts(path: Path) -> tuple[str, bytes, bytes, bytes]:
    try:
        with path.open("rb") as file:
            if file.readline(len(_MAGIC)) != _MAGIC:
                raise ContentRefused("not an exported model", where=str(path), next_step="export it again")
            seal = file.readline(256)
            manifest = file.readline(_MAX_MANIFEST_BYTES)
            content = file.read(MAX_CONTENT_BYTES + 1)
    except OSError as error:
        raise DatabaseUnusable(f"the model cannot be read: {error.strerror}", where=str(path)) from error
    try:
        identity, signature = seal.decode("ascii").split()
        return identity, bytes.fromhex(signature), manifest.removesuffix(b"\n"), content
    except ValueError as error:
        raise ContentRefused("the exported model is damaged", where=str(path), next_step="export it again") from error


def _check_trust(refused: ContentRefused, kind: str, content: bytes, path: Path, *, trust: bool) -> None:
    if kind not in PLAIN_KINDS:
        raise ContentRefused(
            f"{refused.what}, and content of kind {kind!r} is unpickled, which can run code",
            where=str(path),
            allowed=f"from elsewhere only {', '.join(sorted(PLAIN_KINDS))}",
            next_step="export it under the key of this database, or train here",
        ) from refused
    if not trust:
        raise ContentRefused(
            refused.what,
            where=str(path),
            allowed=refused.allowed,
            next_step="if you know where the file comes from, add --trust",
        ) from refused
    if kind != "json":
        _check_arrays(content, path)


def _check_arrays(content: bytes, path: Path) -> None:
    import numpy as np

    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            for name in arrays.files:
                arrays[name]
    except Exception as error:  # numpy and zipfile raise many kinds for bytes that are not theirs
        raise ContentRefused(f"the content is no archive of plain arrays: {error}", where=str(path)) from error
