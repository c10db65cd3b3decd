"""Why stored things are not used. A service that meets one of these runs on without them and says so."""

from __future__ import annotations

from streamspec.core.errors import DependencyUnavailable


class DatabaseUnusable(DependencyUnavailable):
    """The Resource Profile Database, or one thing in it, cannot be used now; the root of the others here.

    Raised as such when the file cannot be reached: no permission, a full disk, no such folder.
    """


class DatabaseDamaged(DatabaseUnusable):
    """The file is not a whole SQLite database: random bytes, truncated, pages overwritten."""


class DatabaseLocked(DatabaseUnusable):
    """Another process holds it for longer than the busy timeout; trying again later can help."""


class DatabaseForeign(DatabaseUnusable):
    """A sound database that is not ours to touch: of another program, or of a newer streamspec."""


class ContentRefused(DatabaseUnusable):
    """One stored thing is not loaded: not authentic, or it names what is not allow-listed."""
