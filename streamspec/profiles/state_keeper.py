"""Keeps what was learned in the database; whatever is wrong with that, learning goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from streamspec.core.errors import StreamspecError
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.online import OnlineLayer

BUSY_SECONDS = 0.2


class Tell(Protocol):
    """How a line gets into the log."""

    def __call__(self, level: str, event: str, **fields: object) -> None: ...


class StateKeeper:
    """Stores the state of an online layer now and then.

    Args:
        path: of the database; None keeps nothing.
        key: file of its key, None for the default.
        name: of the state in the database.
        interval_seconds: how often.
        tell: logs; each kind of trouble is told once until it is over.
    """

    def __init__(self, path: Path | None, key: Path | None, name: str, interval_seconds: float, tell: Tell) -> None:
        self._path = path
        self._key = key
        self._name = name
        self._interval_ns = round(interval_seconds * 1e9)
        self._tell = tell
        self._database: ProfileDatabase | None = None
        self._kept_ns = time.monotonic_ns()
        self._kept_learned = 0
        self._trouble = ""

    def restore(self, layer: OnlineLayer) -> None:
        """Continue where the last learner was, if that can be had."""
        if self._path is None:
            return
        try:
            content = self._open(self._path).online_state(self._name)
            if content is None:
                return
            heads = layer.restore(content)
        except StreamspecError as error:
            self._tell("warning", "learning starts anew, the stored state is not used", reason=str(error))
            return
        self._kept_learned = layer.learned
        self._tell("info", "learning continues", outcomes=layer.learned, heads=heads)

    def keep_when_due(self, layer: OnlineLayer, now_ns: int) -> None:
        """Store when the interval has passed."""
        if now_ns - self._kept_ns >= self._interval_ns:
            self._kept_ns = now_ns
            self.keep(layer)

    def keep(self, layer: OnlineLayer) -> bool:
        """Store now, if there is something new; whether the database has what the layer knows."""
        if self._path is None or layer.learned == self._kept_learned:
            return self._path is not None
        try:
            self._open(self._path).store_online_state(self._name, layer.state(), metrics=layer.status())
        except StreamspecError as error:
            if self._trouble != type(error).__name__:
                self._trouble = type(error).__name__
                self._tell("warning", "what is learned cannot be stored now", reason=str(error))
            return False
        self._kept_learned = layer.learned
        if self._trouble:
            self._trouble = ""
            self._tell("info", "what is learned is stored again")
        return True

    def close(self) -> None:
        """Let go of the database."""
        if self._database is not None:
            self._database.close()

    def _open(self, path: Path) -> ProfileDatabase:
        if self._database is None:
            self._database = ProfileDatabase.open(path, key=self._key, busy_seconds=BUSY_SECONDS)
        return self._database
