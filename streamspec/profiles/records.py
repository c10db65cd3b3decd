"""What the database gives back: plain, immutable facts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from streamspec.core.errors import UsageError

Role = Literal["champion", "challenger", "archived"]
ROLES: tuple[Role, ...] = ("champion", "challenger", "archived")

PLAIN_KINDS = frozenset({"trees", "arrays", "json"})
"""Kinds of content that are read without unpickling (npz without objects, JSON). Every other kind counts as pickled."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One version of a model, without its content.

    Attributes:
        name: what it is a model of, e.g. ``base``; letters, digits, ``.``, ``_`` and ``-``, at most 64.
        version: 1, 2, ...; never given twice under one name.
        kind: how the content is read: ``trees`` and ``arrays`` (npz without objects), ``json``, ``river`` (pickled).
        role: one version of a name is champion, at most one is challenger.
        feature_schema: ``FEATURE_SCHEMA_VERSION`` it was trained for.
        heads: what it predicts, as ``target:cost_key``, e.g. ``useful_time:compress:zstd:9``.
        training_set: identity of what it was trained on, as its author wrote it.
        metrics: how good it was, as its author wrote it.
        parent: the version of the same name that it was made from.
        origin: where an imported one came from (``name``, ``version``, ``created_ns``, ``key``).
        created_ns: nanoseconds since 1970.
        content_bytes: length of the content.
    """

    name: str
    version: int
    kind: str
    role: Role
    feature_schema: int
    heads: tuple[str, ...]
    training_set: Mapping[str, Any]
    metrics: Mapping[str, Any]
    parent: int | None
    origin: Mapping[str, Any] | None
    created_ns: int
    content_bytes: int

    @property
    def identity(self) -> str:
        """Name and version as one text, e.g. ``base:3``."""
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class StoredModel(ModelRecord):
    """A version with its content, which was authentic when it was read."""

    content: bytes


@dataclass(frozen=True, slots=True)
class StateRecord:
    """The newest state of an online model, without its content.

    Attributes:
        name: of the model.
        metrics: how good it was, as its author wrote it.
        created_ns: nanoseconds since 1970.
        content_bytes: length of the state.
    """

    name: str
    metrics: Mapping[str, Any]
    created_ns: int
    content_bytes: int


def checked_name(name: str) -> str:
    """``name`` when it can name a model or a state.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            "not a name of a model",
            where="profiles",
            value=name,
            allowed="1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    return name
