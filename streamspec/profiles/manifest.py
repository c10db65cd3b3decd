"""The signed description of a stored thing: JSON with the digest of its content, and an HMAC over both."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import orjson

from streamspec.core.errors import UsageError
from streamspec.profiles.records import ModelRecord, Role, StateRecord
from streamspec.profiles.refusals import ContentRefused, DatabaseDamaged
from streamspec.profiles.signing import SigningKey

MAX_CONTENT_BYTES = 256 << 20


def to_json(document: object, where: str) -> bytes:
    """Compact JSON with sorted keys; numpy scalars and arrays are written as numbers and lists, NaN as null.

    Raises:
        UsageError: it holds something that JSON has no form for.
    """
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(document, option=options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"cannot be stored as JSON: {error}", where=where) from error


def from_json(text: bytes, where: str) -> dict[str, Any]:
    """The document that :func:`to_json` wrote.

    Raises:
        DatabaseDamaged: the bytes are not that.
    """
    try:
        document = orjson.loads(text)
    except ValueError as error:
        raise DatabaseDamaged(f"damaged: {error}", where=where) from error
    if not isinstance(document, dict):
        raise DatabaseDamaged("damaged: not a JSON object", where=where)
    return document


def sealed(document: Mapping[str, Any], content: bytes, where: str) -> bytes:
    """The manifest of ``content``: ``document`` with the content's length and digest.

    Raises:
        UsageError: the content is too large, or the document is no JSON.
    """
    if len(content) > MAX_CONTENT_BYTES:
        raise UsageError(f"content of {len(content)} bytes", where=where, allowed=f"at most {MAX_CONTENT_BYTES} bytes")
    digest = hashlib.sha256(content).hexdigest()
    return to_json({**document, "content_bytes": len(content), "sha256": digest}, where)


def check_digest(manifest: Mapping[str, Any], content: bytes, where: str) -> None:
    """Raises:
    ContentRefused: ``content`` is not what the manifest says.
    """
    digest = hashlib.sha256(content).hexdigest()
    if len(content) != manifest.get("content_bytes") or not hmac.compare_digest(digest, str(manifest.get("sha256"))):
        raise ContentRefused("the content was changed or cut after it was signed", where=where, next_step=_AGAIN)


def check_signature(key: SigningKey, key_identity: str, signature: bytes, *parts: bytes, where: str) -> None:
    """Raises:
    ContentRefused: ``parts`` (purpose, manifest) were not signed with ``key``, or changed since.
    """
    if key.check(signature, *parts):
        return
    if key_identity != key.identity:
        raise ContentRefused(
            f"signed with another key ({key_identity})",
            where=where,
            allowed=f"the key of this database ({key.identity})",
            next_step="put the key file back that it was stored with",
        )
    raise ContentRefused("the description was changed after it was signed", where=where, next_step=_AGAIN)


def to_record(manifest: Mapping[str, Any], role: Role, where: str) -> ModelRecord:
    """The record that a manifest of a model describes.

    Raises:
        DatabaseDamaged: fields are missing or of another kind.
    """
    try:
        return ModelRecord(
            name=str(manifest["name"]),
            version=int(manifest["version"]),
            kind=str(manifest["kind"]),
            role=role,
            feature_schema=int(manifest["feature_schema"]),
            heads=tuple(map(str, manifest["heads"])),
            training_set=dict(manifest["training_set"]),
            metrics=dict(manifest["metrics"]),
            parent=None if manifest["parent"] is None else int(manifest["parent"]),
            origin=None if manifest["origin"] is None else dict(manifest["origin"]),
            created_ns=int(manifest["created_ns"]),
            content_bytes=int(manifest["content_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatabaseDamaged(f"damaged: the description of a model has no proper {error}", where=where) from error


def to_state_record(manifest: Mapping[str, Any], where: str) -> StateRecord:
    """The record that a manifest of an online state describes.

    Raises:
        DatabaseDamaged: fields are missing or of another kind.
    """
    try:
        return StateRecord(
            name=str(manifest["name"]),
            metrics=dict(manifest["metrics"]),
            created_ns=int(manifest["created_ns"]),
            content_bytes=int(manifest["content_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DatabaseDamaged(f"damaged: the description of a state has no proper {error}", where=where) from error


_AGAIN = "train or import it again"
