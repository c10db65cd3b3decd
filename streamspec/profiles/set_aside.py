"""Opening the database at the start of a service, which runs with it or without it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import structlog

from streamspec.core.clock import SystemClock
from streamspec.core.interfaces import Clock
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.refusals import DatabaseDamaged, DatabaseUnusable
from streamspec.profiles.signing import SigningKey, key_path

_log = structlog.get_logger("streamspec.profiles.database")
_COMPANIONS = ("-journal", "-wal", "-shm")
_SUFFIXES = (".db", ".sqlite", ".sqlite3")


def open_or_set_aside(
    path: Path | str,
    *,
    key: SigningKey | bytes | Path | None = None,
    busy_seconds: float = 1.0,
    clock: Clock | None = None,
) -> tuple[ProfileDatabase | None, str | None]:
    """Open the database; a damaged one is first renamed to ``NAME.damaged-TIMESTAMP``, never overwritten.

    Only what is named as a database (``.db``, ``.sqlite``, ``.sqlite3``) or has its key beside it is renamed.

    Args:
        path: of the database.
        key, busy_seconds: as in ``ProfileDatabase.open``.
        clock: tells the timestamp.

    Returns:
        The database, or None when it cannot be used now (locked, no permission, of another program); and what
        there is to say about it, which was logged in one line, or None.
    """
    path = Path(path)
    try:
        try:
            return _open_whole(path, key, busy_seconds), None
        except DatabaseDamaged:
            if not _is_named_as_ours(path):
                raise
            with _one_at_a_time(path.parent):
                return _replace_damaged(path, key, busy_seconds, clock or SystemClock())
    except (DatabaseUnusable, OSError) as error:
        reason = str(error)
        _log.warning("profile database not used; costs are predicted from size alone", reason=reason)
        return None, reason


def _is_named_as_ours(path: Path) -> bool:
    """A slip of the pen in a configuration must not rename a capture or a system's file."""
    return path.suffix in _SUFFIXES or key_path(path).exists()


def _open_whole(path: Path, key: SigningKey | bytes | Path | None, busy_seconds: float) -> ProfileDatabase:
    database = ProfileDatabase.open(path, key=key, busy_seconds=busy_seconds)
    try:
        database.check()
    except BaseException:
        database.close()
        raise
    return database


def _replace_damaged(
    path: Path, key: SigningKey | bytes | Path | None, busy_seconds: float, clock: Clock
) -> tuple[ProfileDatabase, str | None]:
    try:
        return _open_whole(path, key, busy_seconds), None  # another process has replaced it meanwhile
    except DatabaseDamaged as error:
        aside = _move_aside(path, clock)
        database = _open_whole(path, key, busy_seconds)
        reason = f"{error.what}; kept as {aside}, a new one was begun"
        _log.warning("profile database was damaged and set aside", path=str(path), aside=str(aside), reason=error.what)
        return database, reason


def _move_aside(path: Path, clock: Clock) -> Path:
    moment = datetime.fromtimestamp(clock.time_ns() / 1e9, tz=UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    stem = aside = path.with_name(f"{path.name}.damaged-{moment}")
    number = 0
    while aside.exists():
        number += 1
        aside = stem.with_name(f"{stem.name}.{number}")
    # The database last: a journal left beside a new database would be taken for its own.
    for suffix in (*_COMPANIONS, ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Only one process moves files of this folder at a time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
