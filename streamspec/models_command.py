"""``streamspec models``: what the Resource Profile Database holds, for people and for programs.

Looking opens the file for reading only, so a running service is not disturbed and a read-only file will do.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamspec.core.errors import UsageError
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.records import ROLES, ModelRecord, Role, StateRecord
from streamspec.profiles.refusals import ContentRefused

if TYPE_CHECKING:
    from rich.table import Table

_BUSY_SECONDS = 5.0
"""A person can wait longer for a lock than a service."""


def list_models(path: Path, *, as_json: bool) -> None:
    """Print every version of every model, and the newest state of each online model."""
    with _looking(path) as database:
        models, states = database.models(), database.online_states()
    if as_json:
        _print_json({"models": [_document(m) for m in models], "online_states": [_document(s) for s in states]})
        return
    _print_table(_model_table(models))
    if states:
        _print_table(_state_table(states))


def show_model(path: Path, name: str, version: int | None, *, as_json: bool) -> None:
    """Print all that is known of one version, by default the champion or else the newest.

    Raises:
        UsageError: there is none.
    """
    with _looking(path) as database:
        record = _choose(database, name, version)
        refused = None
        try:
            database.model(name, record.version)
        except ContentRefused as error:
            refused = error.what
    document = _document(record) | {"authentic": refused is None, "refused": refused}
    if as_json:
        _print_json(document)
        return
    lines = _flat(document)
    width = max(len(field) for field, _ in lines)
    for field, value in lines:
        print(f"{field:<{width}}  {value}")


def promote_model(path: Path, name: str, version: int, *, as_json: bool) -> None:
    """Make a version the champion and say which one it follows."""
    with ProfileDatabase.open(path, create=False, busy_seconds=_BUSY_SECONDS) as database:
        before = next((record.version for record in database.models(name) if record.role == "champion"), None)
        database.promote(name, version)
    _tell(
        as_json,
        f"{name}: version {version} is champion" + (f"; it was version {before}" if before else ""),
        {"name": name, "champion": version, "before": before},
    )


def export_model(path: Path, name: str, version: int | None, file: Path, *, overwrite: bool, as_json: bool) -> None:
    """Write one version, by default the champion or else the newest, to a file."""
    with _looking(path) as database:
        record = _choose(database, name, version)
        database.export(name, record.version, file, overwrite=overwrite)
    _tell(
        as_json,
        f"{file}: {name} version {record.version}, {file.stat().st_size} bytes",
        {"name": name, "version": record.version, "file": str(file), "file_bytes": file.stat().st_size},
    )


def import_model(path: Path, file: Path, *, name: str | None, role: str, trust: bool, as_json: bool) -> None:
    """Store what was exported as a new version; the database is created when there is none."""
    chosen: Role | None = next((known for known in ROLES if known == role), None)
    if chosen is None:
        raise UsageError("no role of a model", where="--role", value=role, allowed=", ".join(ROLES))
    with ProfileDatabase.open(path, busy_seconds=_BUSY_SECONDS) as database:
        stored, version = database.import_(file, name=name, role=chosen, trust=trust)
    _tell(
        as_json,
        f"{path}: {stored} version {version}, {role}",
        {"name": stored, "version": version, "role": role, "trusted": trust},
    )


def _looking(path: Path) -> ProfileDatabase:
    return ProfileDatabase.open(path, read_only=True, busy_seconds=_BUSY_SECONDS)


def _choose(database: ProfileDatabase, name: str, version: int | None) -> ModelRecord:
    known = database.models(name)
    if version is None:
        champions = [record for record in known if record.role == "champion"]
        found = (champions or known)[-1:]
    else:
        found = [record for record in known if record.version == version]
    if not found:
        names = sorted({record.name for record in database.models()})
        raise UsageError(
            "no such version of a model" if known else "no such model",
            where=str(database.path),
            value=name if version is None else f"{name} {version}",
            allowed=", ".join(str(record.version) for record in known) or ", ".join(names) or "nothing is stored yet",
            next_step="`streamspec models list` shows what there is",
        )
    return found[0]


# -- what is printed -----------------------------------------------------------------------------
def _document(record: ModelRecord | StateRecord) -> dict[str, Any]:
    return asdict(record) | {"created": _moment(record.created_ns)}


def _moment(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, tz=UTC).isoformat().replace("+00:00", "Z")


def _flat(document: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Fields and their text; nested ones as ``metrics.work_error``, empty ones left out."""
    lines: list[tuple[str, str]] = []
    for field, value in document.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{field}.")
        elif isinstance(value, list | tuple) and not any(isinstance(item, Mapping) for item in value):
            lines.append((prefix + field, ", ".join(map(_text, value)) or "none"))
        elif value is not None:
            lines.append((prefix + field, _text(value)))
    return lines


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _model_table(models: list[ModelRecord]) -> Table:
    from rich.table import Table

    columns = ("name", "version", "role", "kind", "from", "schema", "heads", "bytes", "created", "metrics")
    table = Table(*columns, title="models", title_justify="left")
    for record in models:
        came_from = f"version {record.parent}" if record.parent else "import" if record.origin else ""
        numbers = [f"{field}={text}" for field, text in _flat(record.metrics)]
        counts = (str(record.feature_schema), str(len(record.heads)), str(record.content_bytes))
        table.add_row(
            *(record.name, str(record.version), record.role, record.kind, came_from),
            *counts,
            _moment(record.created_ns),
            " ".join(numbers[:3]) + (" ..." if len(numbers) > 3 else ""),
        )
    return table


def _state_table(states: list[StateRecord]) -> Table:
    from rich.table import Table

    table = Table("name", "bytes", "created", title="state of online models", title_justify="left")
    for state in states:
        table.add_row(state.name, str(state.content_bytes), _moment(state.created_ns))
    return table


def _print_table(table: Table) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _tell(as_json: bool, text: str, document: Mapping[str, Any]) -> None:
    if as_json:
        _print_json(document)
    else:
        print(text)


def _print_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2 if os.isatty(1) else None) + "\n")
    sys.stdout.flush()
