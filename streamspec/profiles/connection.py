"""A connection to the database file: opening, migrating, and what its errors mean.

SQLite in WAL mode: one writer and any number of readers, in any number of processes, never see each other's
unfinished work, and a process killed in the middle of a write leaves the state before it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamspec.core.errors import InternalError
from streamspec.profiles.refusals import DatabaseDamaged, DatabaseForeign, DatabaseLocked, DatabaseUnusable
from streamspec.profiles.schema import APPLICATION_ID, MIGRATIONS

_RETRY_SECONDS = 0.01
_JOURNAL_LIMIT_BYTES = 16 << 20
_NEXT_STEP = {
    "full": "free space on that file system",
    "read": "make the file and its folder accessible to this user, or name another with --database",
    "missing": "train a model (`streamspec train`), or name another file with --database",
    "locked": "wait, or end the process that holds it",
    "damaged": "restore a copy, or move it away and train anew",
}


class Connection:
    """One SQLite connection, for any thread of the process that opened it.

    Args:
        path: of the database.
        read_only: nothing is created, migrated or written.
        create: a file that does not exist is made, unless ``read_only``.
        busy_seconds: how long an operation waits for other processes' locks.
        migrations: steps of the schema (:data:`MIGRATIONS`).

    Raises:
        DatabaseUnusable: or what derives from it, with the reason.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        create: bool = True,
        busy_seconds: float = 1.0,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._busy_seconds = busy_seconds
        self._migrations = migrations
        self._create = create and not read_only
        self._file: tuple[int, int] | None = None
        self._database = self._opened()

    # -- use -----------------------------------------------------------------------------------
    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database as it is now, the same for all statements inside."""
        with self._transaction("BEGIN") as database:
            yield database

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All statements inside take effect together, or none when one fails."""
        if self.read_only:
            raise DatabaseUnusable("opened for reading only", where=str(self.path))
        with self._transaction("BEGIN IMMEDIATE") as database:
            yield database

    def check(self) -> None:
        """Read every page.

        Raises:
            DatabaseDamaged: some are not what they should be.
        """
        with self.reading() as database:
            found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._damaged(str(found).replace("\n", " "))

    def typed(self, rows: Iterable[tuple[Any, ...] | None], *types: type) -> Iterator[tuple[Any, ...]]:
        """The rows, each value of the type it was stored as; None among them are left out.

        Raises:
            DatabaseDamaged: one is of another type.
        """
        for row in rows:
            if row is not None:
                if not all(map(isinstance, row, types)):
                    raise self._damaged("a value of another type than was stored")
                yield row

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        with self._lock:
            self._file = None
            self._database.close()

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            raise InternalError("a database connection does not survive a fork", where=str(self.path))
        with self._lock, self._errors():
            self._follow()
            self._database.execute(begin)
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                # A full disk has rolled back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _follow(self) -> None:
        """A file that was deleted or set aside meanwhile would be written to without anybody ever reading it."""
        if self._file is not None and self._identity() != self._file:
            self._database.close()
            self._database = self._opened()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    # -- opening -------------------------------------------------------------------------------
    def _opened(self) -> sqlite3.Connection:
        with self._errors():
            if not self._create and not self.path.exists():
                raise self._unusable("there is no such database", "missing")
            database = self._open()
            self._file = self._identity()
            return database

    def _open(self) -> sqlite3.Connection:
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._open_for_reading() if self.read_only else self._open_for_writing()
            except sqlite3.OperationalError as error:
                # Switching to WAL and recovering one do not wait for others of themselves.
                if _primary(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _open_for_reading(self) -> sqlite3.Connection:
        database = self._connect("mode=ro")
        try:
            try:
                version = self._version(database)
            except sqlite3.OperationalError as error:
                if _primary(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or self._journal_holds():
                    raise
                # A folder where nothing can be created: nobody writes here, so the file can be read as it is.
                database.close()
                database = self._connect("mode=ro&immutable=1")
                version = self._version(database)
            if version < len(self._migrations):
                raise DatabaseUnusable(
                    f"has version {version} of the schema, and is opened for reading only",
                    where=str(self.path),
                    allowed=f"version {len(self._migrations)}",
                    next_step="open it once for writing (start the service), which brings it up to date",
                )
        except BaseException:
            database.close()
            raise
        return database

    def _open_for_writing(self) -> sqlite3.Connection:
        self._look_first()
        database = self._connect("mode=rwc")
        try:
            version = self._version(database)
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA journal_size_limit = {_JOURNAL_LIMIT_BYTES}")
            if version < len(self._migrations):
                database.execute("PRAGMA journal_mode = WAL")
                self._migrate(database)
            elif not os.access(self.path, os.W_OK):
                raise self._unusable("cannot be written", "read")  # SQLite reads on, silently
        except BaseException:
            database.close()
            raise
        return database

    def _look_first(self) -> None:
        """What is refused is found out without creating or changing a file; all else the real opening finds."""
        if not self.path.is_file() or self.path.stat().st_size == 0:
            return
        database = self._connect("mode=ro" if self._journal_holds() else "mode=ro&immutable=1")
        with contextlib.closing(database), contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            self._version(database)

    def _connect(self, how: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(os.fspath(self.path.absolute()))}?{how}",
            uri=True,
            timeout=self._busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )

    def _version(self, database: sqlite3.Connection) -> int:
        application = int(database.execute("PRAGMA application_id").fetchone()[0])
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        tables = int(database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
        if application != APPLICATION_ID and (application or version or tables):
            raise DatabaseForeign(
                "a SQLite database of another program; it was not touched",
                where=str(self.path),
                next_step="name another file with --database",
            )
        if version > len(self._migrations):
            raise DatabaseForeign(
                f"was written by a newer streamspec (schema {version}); it was not touched",
                where=str(self.path),
                allowed=f"schema {len(self._migrations)} and older",
                next_step="update streamspec, or name another file with --database",
            )
        return version

    def _migrate(self, database: sqlite3.Connection) -> None:
        database.execute("BEGIN IMMEDIATE")
        try:
            for step in range(self._version(database), len(self._migrations)):  # another process may have been here
                for statement in self._migrations[step]:
                    database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {len(self._migrations)}")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _journal_holds(self) -> bool:
        journal = self.path.with_name(self.path.name + "-wal")
        return journal.exists() and journal.stat().st_size > 0

    # -- errors --------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._meaning(error) from error
        except UnicodeDecodeError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise self._unusable(str(error.strerror), "read") from error

    def _meaning(self, error: sqlite3.Error) -> DatabaseUnusable:
        code = _primary(error)
        told = str(error)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return DatabaseLocked(
                f"another process holds it for longer than {self._busy_seconds:g} s",
                where=str(self.path),
                next_step=_NEXT_STEP["locked"],
            )
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT):
            return self._damaged(told)  # our statements are fixed: what they do not fit was changed
        if code == sqlite3.SQLITE_READONLY:
            return self._unusable("cannot be written", "read")
        if code == sqlite3.SQLITE_FULL:
            return self._unusable("the disk is full", "full")
        if isinstance(error, sqlite3.ProgrammingError):
            return DatabaseUnusable(told.rstrip(".").lower(), where=str(self.path))
        return self._damaged(told) if code is None else self._unusable(told, "read")

    def _damaged(self, told: str) -> DatabaseDamaged:
        return DatabaseDamaged(f"damaged: {told}", where=str(self.path), next_step=_NEXT_STEP["damaged"])

    def _unusable(self, told: str, why: str) -> DatabaseUnusable:
        return DatabaseUnusable(told, where=str(self.path), next_step=_NEXT_STEP[why])


def _primary(error: sqlite3.Error) -> int | None:
    """The primary result code; None for what the Python module raises of itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
