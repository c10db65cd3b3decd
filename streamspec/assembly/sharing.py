"""What instances learned, exchanged over a compacted topic: a new one starts warm, and a fleet learns together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from streamspec.core.tally import Tally
from streamspec.links.kafka_compacted import TableReader, TableWriter
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.shared_state import experience, seal, unseal
from streamspec.profiles.signing import KEY_FILE_VARIABLE, KEY_VARIABLE, SigningKey, load_key
from streamspec.telemetry.state import ComponentHealth

if TYPE_CHECKING:
    from streamspec.profiles.config import ProfilesConfig
    from streamspec.profiles.learner import LearnerClient

_log = structlog.get_logger("streamspec.sharing")

WHERE = "profiles.share"
KNOWN = 16
"""States of others that are kept, for a learner that takes the place of a dead one; the most experienced."""
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
POLL_SECONDS = 1.0
LAST_WORDS_SECONDS = 5.0
"""How long the end waits for the topic to take what was learned last."""


def sharing_key(config: ProfilesConfig) -> SigningKey:
    """The key that all instances have.

    Raises:
        DatabaseUnusable: there is none, or it cannot be used.
    """
    given = config.key is not None or KEY_VARIABLE in os.environ or KEY_FILE_VARIABLE in os.environ
    if config.database is None and not given:
        raise ContentRefused(
            "no key to sign with what instances tell each other",
            where=WHERE,
            next_step=f"give all instances the same: profiles.key, or {KEY_VARIABLE} in the environment",
        )
    return load_key(config.database or Path(), config.key, create=False)


class Sharing:
    """Publishes what a learner learned, and offers it what others did. Nothing here ever stops the stream.

    Args:
        config: of the profiles; ``share`` is set.
        key: signs, and checks what comes.
        client: of the learner; its callbacks ``on_ready``, ``on_shared`` and ``on_refused`` are taken.

    Attributes:
        published: states that the topic took.
        refused: records that are not used, by reason: ``not_authentic``, ``not_usable``.
        closed: :meth:`close` is done.
    """

    def __init__(self, config: ProfilesConfig, key: SigningKey, client: LearnerClient) -> None:
        assert config.share is not None
        self.config = config.share
        self.published = 0
        self.refused = Tally()
        self._key = key
        self._client = client
        self._group = config.state
        self._name = f"{self._group}/{self.config.instance or socket.gethostname()}".encode()
        self._reader = TableReader(self.config, self.config.topic, WHERE)
        self._writer = TableWriter(self.config, self.config.topic, WHERE)
        self._known: dict[bytes, tuple[int, bytes]] = {}
        self._pending: bytes | None = None
        self._own = b""
        self._read = asyncio.Event()
        self._wanted = asyncio.Event()
        self._told: set[tuple[bytes, str]] = set()
        self._trouble: dict[str, str] = {}
        self.closed = False
        self._tasks: list[asyncio.Task[None]] = []
        client.on_ready, client.on_shared, client.on_refused = self._ready, self._take_own, self._not_used

    # -- life ---------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to read and to publish."""
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._publish())]

    async def warm(self) -> None:
        """Return when the learner knows what others have learned, at the latest after ``connect_timeout``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.connect_timeout):
                await self._read.wait()
                if self._known:
                    await self._client.wait_ready()
                    await self._client.wait_adopted()
                return
        _log.warning("the stream starts before it is known what others have learned", topic=self.config.topic)

    async def close(self) -> None:
        """Publish what was learned last, unless the topic is away, and disconnect. Close the learner first."""
        if self._tasks and self._read.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await self._told_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reader.close()
        await self._writer.close()
        self.closed = True

    async def _told_all(self) -> None:
        while not (self._pending is None or self._trouble):  # noqa: ASYNC110 (once, at the end)
            await asyncio.sleep(0.01)

    # -- reading ------------------------------------------------------------------------------
    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                await self._reader.open()
                failures = 0
                await self._read_on()
            except Exception as error:  # of the client library too; the stream goes on whatever it is
                self._failed("reading", error)
            await self._reader.close()
            await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1

    async def _read_on(self) -> None:
        while True:
            at_end = self._read.is_set() or await self._reader.at_end()
            if at_end and not self._read.is_set():
                self._read.set()
                self._offer_all()
                _log.info("what others have learned is known", topic=self.config.topic, instances=len(self._known))
            if at_end:
                self._over("reading")
            for name, value in await self._reader.read(POLL_SECONDS if at_end else 0.1):
                self._take(name, value)

    def _take(self, name: bytes, value: bytes | None) -> None:
        if name.partition(b"/")[0] != self._group.encode():
            return
        if value is None:
            self._known.pop(name, None)
            return
        if value == self._own:
            return
        try:
            body = unseal(self._key, name, value)
            learned = experience(body)
        except ContentRefused as error:
            self.refused.add("not_authentic", 1)
            self._tell_once(name, str(error))
            return
        self._known[name] = (learned, body)
        if len(self._known) > KNOWN:
            del self._known[min(self._known, key=lambda other: self._known[other][0])]
        if self._read.is_set():
            self._client.adopt(body)

    def _ready(self) -> None:
        if self._read.is_set():
            self._offer_all()

    def _offer_all(self) -> None:
        """The most experienced first: for each head the first that is much better is taken."""
        for _, body in sorted(self._known.values(), key=lambda known: known[0], reverse=True):
            self._client.adopt(body)

    def _not_used(self, reason: str) -> None:
        self.refused.add("not_usable", 1)
        self._tell_once(b"", reason)

    def _tell_once(self, name: bytes, reason: str) -> None:
        if (name, reason) not in self._told and len(self._told) < 100:
            self._told.add((name, reason))
            _log.warning(
                "what another instance learned is not used", instance=name.decode(errors="replace"), reason=reason
            )

    # -- publishing ---------------------------------------------------------------------------
    def _take_own(self, body: bytes) -> None:
        self._pending = body
        self._wanted.set()

    async def _publish(self) -> None:
        """After reading to the end, lest a cold start overwrite what this instance told before it."""
        await self._read.wait()
        failures = 0
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            body = self._pending
            if body is None:
                continue
            self._own = seal(self._key, self._name, body)
            try:
                await self._writer.write(self._name, self._own)
            except Exception as error:  # of the client library too; what is newest then is told later
                self._failed("writing", error)
                await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1
                self._wanted.set()
                continue
            failures = 0
            self.published += 1
            self._over("writing")
            if self._pending is body:
                self._pending = None

    # -- trouble ------------------------------------------------------------------------------
    def _failed(self, what: str, error: Exception) -> None:
        reason = str(error) or repr(error)
        if what not in self._trouble:
            _log.warning("what is learned is not exchanged now, the stream goes on", while_=what, reason=reason)
        self._trouble[what] = reason

    def _over(self, what: str) -> None:
        if self._trouble.pop(what, ""):
            _log.info("what is learned is exchanged again", while_=what)

    def health(self) -> ComponentHealth:
        """Whether it is exchanged, or why not."""
        reason = "; ".join(sorted(set(self._trouble.values())))
        return ComponentHealth("profile sharing", "degraded" if reason else "ok", reason)

    def summary(self) -> Mapping[str, object]:
        """What was exchanged."""
        return {
            "published": self.published,
            "instances": len(self._known),
            "heads_adopted": self._client.adopted,
            "refused": dict(self.refused.counts),
        }
