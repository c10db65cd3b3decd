"""What learns, put together: the database, the base model, the learner process, and the foresight that they feed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from streamspec.core.prediction import Head, chain_heads
from streamspec.profiles.learner import BaseSource, LearnerClient, StatePlace, base_source
from streamspec.profiles.refusals import ContentRefused, DatabaseUnusable
from streamspec.profiles.set_aside import open_or_set_aside
from streamspec.telemetry.state import ComponentHealth, LearningStatus

if TYPE_CHECKING:
    from streamspec.assembly.sharing import Sharing
    from streamspec.config import ServiceConfig
    from streamspec.engine.dispatcher import Dispatcher
    from streamspec.engine.foresight import Foresight
    from streamspec.profiles.database import ProfileDatabase
    from streamspec.profiles.snapshot import Snapshot

_log = structlog.get_logger("streamspec.learning")

DRIFT_SECONDS = 1.0
"""How long a noticed change counts as drift."""


class Learning:
    """The learner of one service, as controller and HTTP see it. Implements ``LearningReader``.

    Args:
        config: of the service; it has stages.
        dispatcher: whose outcomes are learned from.
        foresight: whose predictor is kept current.
    """

    def __init__(self, config: ServiceConfig, dispatcher: Dispatcher, foresight: Foresight) -> None:
        self._foresight = foresight
        self._clock = dispatcher.clock
        self.heads: tuple[Head, ...] = chain_heads(config.stages)
        self.database, self.database_problem = _open_database(config)
        self.base_name = self.base_problem = ""
        profiles = config.profiles
        place = None
        if self.database is not None and profiles.database is not None:
            place = StatePlace(profiles.database, profiles.key, profiles.state)
        self.base = self._base(profiles.model)
        self.client = LearnerClient(
            self.heads,
            config.learning,
            on_snapshot=self._take,
            base=self.base,
            state=place,
            objective_ns=config.objective.latency * 1e9,
            share_interval_seconds=profiles.share.interval if profiles.share is not None else 0.0,
        )
        self.sharing, self.sharing_problem = _sharing(config, self.client)
        foresight.predictor = self.client.snapshot
        self._listeners = dispatcher.accounts.listeners
        self._offer = self.client.offer
        self._listeners.append(self._offer)
        self._paused = False
        self._published_ns = 0
        self._learned_before = 0
        self._drifts = 0
        self._drift_ns = 0

    def start(self) -> None:
        """Start the learner process; the stream does not wait for it."""
        self.client.start()
        if self.sharing is not None:
            self.sharing.start()

    async def warm(self) -> None:
        """Return when it is known what other instances have learned, or it takes too long; at once where nothing is
        shared."""
        if self.sharing is not None:
            await self.sharing.warm()

    async def close(self) -> None:
        """Let the learner finish and store; close the database."""
        self._listeners.remove(self._offer)
        await self.client.close()
        if self.sharing is not None:
            await self.sharing.close()
        if self.database is not None:
            await asyncio.to_thread(self.database.close)

    def _take(self, snapshot: Snapshot) -> None:
        self._foresight.predictor = snapshot
        self._published_ns = self._clock.monotonic_ns()
        if self.client.drifts > self._drifts:
            self._drifts = self.client.drifts
            self._drift_ns = self._published_ns

    def _base(self, name: str) -> BaseSource | None:
        """What this chain needs of the database's champion, or of the packaged model; None is size alone."""
        from streamspec.profiles import base_model

        if self.database is not None:
            try:
                stored = self.database.champion(name)
                if stored is not None:
                    self.base_name = stored.identity
                    return base_source(base_model.load(stored.content), self.heads)
            except (ContentRefused, DatabaseUnusable) as error:
                self.base_problem = str(error)
                _log.warning("stored base model not used, the packaged one is", reason=str(error))
        content = base_model.packaged()
        if content is None:
            return None
        self.base_name = "packaged"
        return base_source(base_model.load(content), self.heads)

    # -- reading ------------------------------------------------------------------------------
    @property
    def published_ns(self) -> int:
        """When the snapshot in use was published or, while nothing is to be learned, confirmed; monotonic.
        0 before the first: what a service starts with does not age."""
        if self._published_ns and not self.client.waiting:
            return self._clock.monotonic_ns()
        return self._published_ns

    @property
    def drift(self) -> bool:
        """A sudden change was noticed within the last :data:`DRIFT_SECONDS`."""
        return bool(self._drift_ns) and self._clock.monotonic_ns() - self._drift_ns < DRIFT_SECONDS * 1e9

    def status(self) -> LearningStatus:
        snapshot = self.client.snapshot
        age = (time.monotonic_ns() - self._published_ns) / 1e9 if self._published_ns else 0.0
        return LearningStatus(
            learned=self.client.learned,
            waiting=self.client.waiting,
            skipped=self.client.skipped,
            model_version=snapshot.version,
            model_age_seconds=age,
            drifts=self.client.drifts,
            paused=self._paused,
        )

    def pause(self, paused: bool) -> None:
        """Stop learning, or go on."""
        self._paused = paused
        if paused:
            self.client.pause()
        else:
            self.client.resume()

    def health(self) -> Sequence[ComponentHealth]:
        """The learner and the database."""
        found = []
        if self.client.config.enabled:
            ready = self.client.pid is not None
            found.append(
                ComponentHealth("learner", "ok" if ready else "degraded", "" if ready else "its process is not running")
            )
        if self.database_problem:
            found.append(ComponentHealth("profile database", "degraded", self.database_problem))
        if self.base is None:
            found.append(ComponentHealth("base model", "degraded", "none: costs are predicted from size until learned"))
        elif self.base_problem:
            found.append(ComponentHealth("base model", "degraded", self.base_problem))
        if self.sharing is not None:
            found.append(self.sharing.health())
        elif self.sharing_problem:
            found.append(ComponentHealth("profile sharing", "degraded", self.sharing_problem))
        return found


def _sharing(config: ServiceConfig, client: LearnerClient) -> tuple[Sharing | None, str]:
    if config.profiles.share is None or not config.learning.enabled:
        return None, ""
    from streamspec.assembly.sharing import Sharing, sharing_key

    try:
        return Sharing(config.profiles, sharing_key(config.profiles), client), ""
    except DatabaseUnusable as error:
        _log.error("what is learned is not shared", reason=str(error))
        return None, str(error)


def _open_database(config: ServiceConfig) -> tuple[ProfileDatabase | None, str]:
    path = config.profiles.database
    if path is None:
        return None, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("profile database not used", path=str(path), reason=error.strerror)
        return None, f"{path.parent}: {error.strerror}"
    database, problem = open_or_set_aside(path, key=config.profiles.key)
    return database, problem or ""
