"""The Resource Profile Database: models, online state, decisions and speed-up curves in one SQLite file.

The learner writes, the dispatcher reads, and the command line does both, each through an object of its own and
all at once. Whatever is wrong with the file or with something in it is a :class:`DatabaseUnusable`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from streamspec.core.errors import UsageError
from streamspec.core.features import FEATURE_SCHEMA_VERSION
from streamspec.profiles.connection import Connection
from streamspec.profiles.manifest import (
    check_digest,
    check_signature,
    from_json,
    sealed,
    to_json,
    to_record,
    to_state_record,
)
from streamspec.profiles.records import ROLES, ModelRecord, Role, StateRecord, StoredModel, checked_name
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.signing import SigningKey, load_key

KEPT_STATES = 4
"""Online states kept per name; the newest that is whole is given back."""
KEPT_DECISIONS = 100_000
"""Decisions kept, of any kind."""

_log = structlog.get_logger("streamspec.profiles.database")


class ProfileDatabase:
    """One open database. Any thread may use it; a child process opens its own.

    Made by :meth:`open`. Every method raises ``DatabaseUnusable`` (or what derives from it) when the file cannot
    be used, and leaves what was stored before as it was.
    """

    def __init__(self, connection: Connection, key: SigningKey | bytes | Path | None, kept_decisions: int) -> None:
        self._connection = connection
        self._given_key = key
        self._key: SigningKey | None = None
        self._kept_decisions = kept_decisions
        self.path = connection.path
        self.read_only = connection.read_only

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        key: SigningKey | bytes | Path | None = None,
        read_only: bool = False,
        create: bool = True,
        busy_seconds: float = 1.0,
        kept_decisions: int = KEPT_DECISIONS,
    ) -> ProfileDatabase:
        """Open the file, creating it or bringing its schema up to date unless ``read_only``.

        Args:
            path: of the file; its folder must exist.
            key: signs and checks what is stored; by default as :func:`~streamspec.profiles.signing.load_key` says.
            read_only: write nothing, the file system may be read-only.
            create: make the file when it does not exist, unless ``read_only``.
            busy_seconds: how long one operation waits for other processes.
            kept_decisions: how many decisions are kept.

        Raises:
            DatabaseUnusable: it cannot be opened.
            DatabaseDamaged: it is no whole database.
            DatabaseLocked: another process holds it.
            DatabaseForeign: it is of another program or a newer version; not touched.
        """
        connection = Connection(Path(path), read_only=read_only, create=create, busy_seconds=busy_seconds)
        return cls(connection, key, kept_decisions)

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        self._connection.close()

    def check(self) -> None:
        """Read every page of the file.

        Raises:
            DatabaseDamaged: one is not what it should be.
        """
        self._connection.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- models --------------------------------------------------------------------------------
    def store_model(
        self,
        name: str,
        content: bytes,
        *,
        kind: str,
        heads: Sequence[str],
        training_set: Mapping[str, Any],
        metrics: Mapping[str, Any],
        role: Role = "challenger",
        parent: int | None = None,
        origin: Mapping[str, Any] | None = None,
        feature_schema: int = FEATURE_SCHEMA_VERSION,
    ) -> int:
        """Store a new version and return its number. Fields are those of ``ModelRecord``.

        A new champion or challenger takes the place of the one before, which is archived.

        Raises:
            UsageError: a field cannot be stored, or the parent does not exist.
        """
        if role not in ROLES:
            raise UsageError("no role of a model", where="profiles", value=role, allowed=", ".join(ROLES))
        fields: dict[str, Any] = {
            "name": checked_name(name),
            "kind": kind,
            "feature_schema": feature_schema,
            "heads": list(heads),
            "training_set": dict(training_set),
            "metrics": dict(metrics),
            "parent": parent,
            "origin": origin,
            "created_ns": time.time_ns(),
        }
        with self._connection.writing() as database:
            if parent is not None and self._role(database, name, parent) is None:
                raise self._unknown(database, name, parent)
            newest = "SELECT coalesce(max(version), 0) FROM models WHERE name = ?"
            version = int(database.execute(newest, (name,)).fetchone()[0]) + 1
            manifest = sealed({**fields, "version": version}, content, self._place(name, version))
            key = self._signing_key()
            self._vacate(database, name, role)
            database.execute(
                "INSERT INTO models (name, version, role, manifest, key, signature) VALUES (?, ?, ?, ?, ?, ?)",
                (name, version, role, manifest, key.identity, key.sign(b"model", manifest)),
            )
            database.execute("INSERT INTO model_contents VALUES (?, ?, ?)", (name, version, content))
        return version

    def models(self, name: str | None = None) -> list[ModelRecord]:
        """All versions (of one name), by name and version. Not authenticated: for people to look at."""
        with self._connection.reading() as database:
            rows = database.execute(
                "SELECT name, version, role, manifest FROM models WHERE ? IS NULL OR name = ? ORDER BY name, version",
                (name, name),
            ).fetchall()
        return [
            to_record(from_json(manifest, place := self._place(of, version)), role, place)
            for of, version, role, manifest in self._connection.typed(rows, str, int, str, bytes)
        ]

    def model(self, name: str, version: int | None = None) -> StoredModel | None:
        """A version, by default the newest; None when there is none.

        Raises:
            ContentRefused: it is not authentic.
        """
        if version is None:
            return self._load(
                "m.name = ? AND m.version = (SELECT max(version) FROM models WHERE name = m.name)", (name,)
            )
        return self._load("m.name = ? AND m.version = ?", (name, version))

    def champion(self, name: str) -> StoredModel | None:
        """The version in use; None when there is none.

        Raises:
            ContentRefused: it is not authentic.
        """
        return self._load("m.name = ? AND m.role = 'champion'", (name,))

    def challenger(self, name: str) -> StoredModel | None:
        """The version that is tried beside the champion; None when there is none.

        Raises:
            ContentRefused: it is not authentic.
        """
        return self._load("m.name = ? AND m.role = 'challenger'", (name,))

    def promote(self, name: str, version: int) -> None:
        """Make a version the champion; the champion before is archived.

        Raises:
            UsageError: there is no such version.
            ContentRefused: it is not authentic.
        """
        self._known(name, version)
        with self._connection.writing() as database:
            if self._role(database, name, version) == "champion":
                return
            self._vacate(database, name, "champion")
            database.execute(
                "UPDATE models SET role = 'champion' WHERE name = ? AND version = ?",
                (name, version),
            )

    def export(self, name: str, version: int, path: Path, *, overwrite: bool = False) -> None:
        """Write a version to a file that :meth:`import_` reads, in this database or another.

        Raises:
            UsageError: there is no such version, or the file exists.
            ContentRefused: it is not authentic.
            DatabaseUnusable: the file cannot be written.
        """
        from streamspec.profiles.model_file import write_model

        write_model(path, asdict(self._known(name, version)), self._signing_key(), overwrite=overwrite)

    def import_(
        self, path: Path, *, name: str | None = None, role: Role = "archived", trust: bool = False
    ) -> tuple[str, int]:
        """Store what :meth:`export` wrote, as a new version, and return its name and number.

        Args:
            path: the file.
            name: under which it is stored, by default its own.
            role: of the new version.
            trust: take it although it was signed with another key; never for kinds that are unpickled.

        Raises:
            ContentRefused: it is damaged, not authentic, or not trusted.
            DatabaseUnusable: it cannot be read.
        """
        from streamspec.profiles.model_file import read_model

        found = read_model(path, self._signing_key(), trust=trust)
        origin = {"name": found.name, "version": found.version, "created_ns": found.created_ns, "key": found.key}
        name = found.name if name is None else name
        version = self.store_model(
            name,
            found.content,
            kind=found.kind,
            heads=found.heads,
            training_set=found.training_set,
            metrics=found.metrics,
            role=role,
            origin=origin,
            feature_schema=found.feature_schema,
        )
        return name, version

    # -- online state --------------------------------------------------------------------------
    def store_online_state(self, name: str, content: bytes, *, metrics: Mapping[str, Any] | None = None) -> None:
        """Keep the state of an online model, and forget all but the last ``KEPT_STATES`` of that name."""
        document = {"name": checked_name(name), "created_ns": time.time_ns(), "metrics": dict(metrics or {})}
        manifest = sealed(document, content, f"{self.path}: online state {name}")
        key = self._signing_key()
        with self._connection.writing() as database:
            database.execute(
                "INSERT INTO online_states (name, manifest, key, signature, content) VALUES (?, ?, ?, ?, ?)",
                (name, manifest, key.identity, key.sign(b"online state", manifest), content),
            )
            database.execute(
                "DELETE FROM online_states WHERE name = ? AND id NOT IN "
                "(SELECT id FROM online_states WHERE name = ? ORDER BY id DESC LIMIT ?)",
                (name, name, KEPT_STATES),
            )

    def online_state(self, name: str) -> bytes | None:
        """The newest authentic state; None when there is none at all.

        Raises:
            ContentRefused: there are some, and none is authentic.
        """
        refused: ContentRefused | None = None
        for manifest, key, signature, content in self._states(name):
            where = f"{self.path}: online state {name}"
            try:
                check_signature(self._checking_key(), key, signature, b"online state", manifest, where=where)
                document = from_json(manifest, where)
                check_digest(document, content, where)
            except ContentRefused as error:
                _log.warning("online state refused, trying an older one", reason=str(error))
                refused = refused or error
            else:
                if document.get("name") == name:
                    return bytes(content)
        if refused is not None:
            raise refused
        return None

    def online_states(self) -> list[StateRecord]:
        """The newest state of each name, by name, without its content. Not authenticated."""
        with self._connection.reading() as database:
            rows = database.execute(
                "SELECT manifest FROM online_states "
                "WHERE id IN (SELECT max(id) FROM online_states GROUP BY name) ORDER BY name"
            ).fetchall()
        place = f"{self.path}: online states"
        return [to_state_record(from_json(text, place), place) for (text,) in self._connection.typed(rows, bytes)]

    def _states(self, name: str) -> Iterator[tuple[Any, ...]]:
        """From the newest on, one at a time: a state can be large, and the newest is nearly always good."""
        before = 2**63 - 1
        while True:
            with self._connection.reading() as database:
                row = database.execute(
                    "SELECT id, manifest, key, signature, content FROM online_states "
                    "WHERE name = ? AND id < ? ORDER BY id DESC LIMIT 1",
                    (name, before),
                ).fetchone()
            if row is None:
                return
            ((before, *state),) = self._connection.typed([row], int, bytes, str, bytes, bytes)
            yield tuple(state)

    # -- decisions -----------------------------------------------------------------------------
    def store_decisions(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add decisions to the ledger; the oldest beyond the number kept are forgotten.

        Args:
            rows: one JSON object each, with ``time_ns`` (nanoseconds since 1970) and ``kind`` among its fields.

        Raises:
            UsageError: a row lacks one of the two, or is no JSON.
        """
        where = "profiles.decisions"
        try:
            values = [(int(row["time_ns"]), str(row["kind"]), to_json(dict(row), where)) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"a decision without a proper {error}", where=where, allowed="time_ns, kind") from error
        with self._connection.writing() as database:
            database.executemany("INSERT INTO decisions (time_ns, kind, document) VALUES (?, ?, ?)", values)
            database.execute(
                "DELETE FROM decisions WHERE id <= (SELECT max(id) FROM decisions) - ?", (self._kept_decisions,)
            )

    def decisions(self, last: int = 100, *, kind: str | None = None, since_ns: int = 0) -> list[dict[str, Any]]:
        """The ``last`` decisions (of one kind, not older than ``since_ns``), oldest first, as they were stored."""
        with self._connection.reading() as database:
            rows = database.execute(
                "SELECT document FROM decisions WHERE (? IS NULL OR kind = ?) AND time_ns >= ? "
                "ORDER BY id DESC LIMIT ?",
                (kind, kind, since_ns, last),
            ).fetchall()
        place = f"{self.path}: decisions"
        return [from_json(document, place) for (document,) in self._connection.typed(reversed(rows), bytes)]

    # -- speed-up curves -----------------------------------------------------------------------
    def store_speedup(self, key: str, curve: Mapping[int, float]) -> None:
        """Keep a measured curve in place of the one before.

        Args:
            key: of the lane or chain and whatever else it holds for.
            curve: throughput with so many workers, relative to one.
        """
        document = to_json({int(workers): float(speedup) for workers, speedup in curve.items()}, "profiles.speedups")
        with self._connection.writing() as database:
            database.execute("INSERT OR REPLACE INTO speedups VALUES (?, ?, ?)", (key, document, time.time_ns()))

    def speedup(self, key: str) -> dict[int, float] | None:
        """The curve kept under ``key``; None when there is none."""
        with self._connection.reading() as database:
            row = database.execute("SELECT curve FROM speedups WHERE key = ?", (key,)).fetchone()
        for (curve,) in self._connection.typed([row], bytes):
            return {int(workers): float(speedup) for workers, speedup in from_json(curve, str(self.path)).items()}
        return None

    # -- inside --------------------------------------------------------------------------------
    def _load(self, which: str, values: tuple[Any, ...]) -> StoredModel | None:
        with self._connection.reading() as database:
            row = database.execute(
                "SELECT m.name, m.version, m.role, m.manifest, m.key, m.signature, coalesce(c.content, X'') "
                "FROM models AS m "
                f"LEFT JOIN model_contents AS c ON c.name = m.name AND c.version = m.version WHERE {which}",
                values,
            ).fetchone()
        if row is None:
            return None
        ((name, version, role, manifest, key, signature, content),) = self._connection.typed(
            [row], str, int, str, bytes, str, bytes, bytes
        )
        where = self._place(name, version)
        check_signature(self._checking_key(), key, signature, b"model", manifest, where=where)
        document = from_json(manifest, where)
        check_digest(document, content, where)
        record = to_record(document, role, where)
        if (record.name, record.version) != (name, version):
            raise ContentRefused("was stored as another model", where=where, value=f"{record.name} {record.version}")
        return StoredModel(**asdict(record), content=content)

    @staticmethod
    def _role(database: sqlite3.Connection, name: str, version: int) -> str | None:
        row = database.execute("SELECT role FROM models WHERE name = ? AND version = ?", (name, version)).fetchone()
        return None if row is None else str(row[0])

    @staticmethod
    def _vacate(database: sqlite3.Connection, name: str, role: Role) -> None:
        if role != "archived":
            database.execute("UPDATE models SET role = 'archived' WHERE name = ? AND role = ?", (name, role))

    def _signing_key(self) -> SigningKey:
        if self._key is None:
            self._key = load_key(self.path, self._given_key, create=not self.read_only)
        return self._key

    def _checking_key(self) -> SigningKey:
        """As above, but what was signed without a key that is still there is refused, not signed anew."""
        if self._key is None:
            self._key = load_key(self.path, self._given_key, create=False)
        return self._key

    def _place(self, name: str, version: int) -> str:
        return f"{os.fspath(self.path)}: model {name} {version}"

    def _known(self, name: str, version: int) -> StoredModel:
        stored = self.model(name, version)
        if stored is None:
            with self._connection.reading() as database:
                raise self._unknown(database, name, version)
        return stored

    def _unknown(self, database: sqlite3.Connection, name: str, version: int) -> UsageError:
        versions = database.execute("SELECT version FROM models WHERE name = ? ORDER BY version", (name,)).fetchall()
        names = database.execute("SELECT DISTINCT name FROM models ORDER BY name").fetchall()
        return UsageError(
            "no such version of a model" if versions else "no such model",
            where=str(self.path),
            value=f"{name} {version}",
            allowed=", ".join(str(known) for (known,) in versions or names) or "nothing is stored yet",
            next_step="`streamspec models list` shows what there is",
        )
