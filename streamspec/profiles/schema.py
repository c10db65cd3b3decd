"""The tables of the Resource Profile Database, as steps from each version of the schema to the next."""

from __future__ import annotations

APPLICATION_ID = 0x73747370
"""``stsp`` in the SQLite header: tells our files from those of other programs."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # The manifest is signed and says what the content's digest is; the content lies in a table of its own so
        # that listing does not walk through it.
        """CREATE TABLE models (
            name TEXT NOT NULL,
            version INTEGER NOT NULL CHECK (version > 0),
            role TEXT NOT NULL CHECK (role IN ('champion', 'challenger', 'archived')),
            manifest BLOB NOT NULL,
            key TEXT NOT NULL,
            signature BLOB NOT NULL,
            PRIMARY KEY (name, version)
        ) STRICT, WITHOUT ROWID""",
        "CREATE UNIQUE INDEX one_champion ON models (name) WHERE role = 'champion'",
        "CREATE UNIQUE INDEX one_challenger ON models (name) WHERE role = 'challenger'",
        """CREATE TABLE model_contents (
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            content BLOB NOT NULL,
            UNIQUE (name, version)
        ) STRICT""",
        """CREATE TABLE online_states (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL,
            manifest BLOB NOT NULL,
            key TEXT NOT NULL,
            signature BLOB NOT NULL,
            content BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX online_states_by_name ON online_states (name, id)",
        """CREATE TABLE decisions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ns INTEGER NOT NULL,
            kind TEXT NOT NULL,
            document BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX decisions_by_kind ON decisions (kind, id)",
        """CREATE TABLE speedups (
            key TEXT PRIMARY KEY,
            curve BLOB NOT NULL,
            updated_ns INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
)
"""Step ``i`` leads from version ``i`` to ``i + 1``; a step that was released is never changed."""

SCHEMA_VERSION = len(MIGRATIONS)
