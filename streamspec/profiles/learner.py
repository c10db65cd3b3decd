"""The dispatcher's side of the learner: starts it, hands it outcomes, takes its snapshots, replaces it when it dies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from streamspec.core.interfaces import Rows
from streamspec.core.outcome import DELIVERED, SHED
from streamspec.core.prediction import Head
from streamspec.core.tally import Tally
from streamspec.profiles import learner_wire as wire
from streamspec.profiles.base_model import BaseModel, head_names
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.head_plan import BasePredictor, plan_heads
from streamspec.profiles.outcome_ring import (
    DRIFTS,
    LEARNED,
    TREE_LEARNED,
    TREE_SKIPPED,
    UNMEASURED,
    OutcomeRing,
)
from streamspec.profiles.refusals import ContentRefused
from streamspec.profiles.snapshot import Snapshot, first_snapshot

_log = structlog.get_logger("streamspec.learner")

RESTART_DELAYS_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 30.0)
"""Wait before the n-th learner in a row that died before it was ready; the last for all further ones."""
_SOCKET_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class BaseSource:
    """A base model as dispatcher and learner have it.

    Attributes:
        model: here.
        content: its bytes, for the learner.
        loader: ``module:function`` that makes the model of its bytes there.
        identity: names it in stored states, e.g. ``base:3``.
    """

    model: BasePredictor
    content: bytes
    loader: str
    identity: str


def base_source(model: BaseModel, heads: Sequence[Head]) -> BaseSource:
    """What a chain needs of a base model. Its identity is the digest of that, so a state that was learned on top of
    another model is not used."""
    part = model.restricted(head_names(heads))
    content = part.to_bytes()
    return BaseSource(part, content, "streamspec.profiles.base_model:load", hashlib.sha256(content).hexdigest()[:32])


@dataclass(frozen=True)
class StatePlace:
    """Where the learner keeps what it learned.

    Attributes:
        database: the file.
        key: file of its key, None for the default.
        name: of the state.
    """

    database: Path
    key: Path | None = None
    name: str = "online"


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    pidfd: int
    connection: socket.socket
    ready: bool = False
    offers: int = 0  # of other instances' states that are not answered


class LearnerClient:
    """One learner process and the ring to it. Made and used in one event loop.

    Args:
        heads: of the chain, ``chain_heads``.
        config: see ``LearningConfig``.
        on_snapshot: called in the event loop with each new snapshot.
        base: the base model, if there is one.
        state: where the state is kept; None forgets at the end.
        objective_ns: the latency objective, 0 for none.
        share_interval_seconds: how often to call ``on_shared``, 0 for never.

    Attributes:
        snapshot: the newest; before the first, what is known without learning.
        finished: outcomes that were offered.
        restarts: learners that took the place of dead ones.
        adopted: heads that were taken over from other instances.
        on_ready: called in the event loop when a learner is ready for outcomes.
        on_shared: called with what other instances can start from, when something new was learned.
        on_refused: called with the reason why what :meth:`adopt` offered is not used.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        config: LearningConfig | None = None,
        *,
        on_snapshot: Callable[[Snapshot], None] | None = None,
        base: BaseSource | None = None,
        state: StatePlace | None = None,
        objective_ns: float = 0.0,
        share_interval_seconds: float = 0.0,
    ) -> None:
        self.config = config or LearningConfig()
        self.plan = plan_heads(heads)
        self.finished = 0
        self.restarts = 0
        self.adopted = 0
        self.on_ready: Callable[[], None] | None = None
        self.on_shared: Callable[[bytes], None] | None = None
        self.on_refused: Callable[[str], None] | None = None
        self._share_interval_seconds = share_interval_seconds
        self._on_snapshot = on_snapshot
        self._base = base
        self._place = state
        self._objective_ns = objective_ns
        model = None if base is None else base.model
        self.snapshot = first_snapshot(
            self.plan, model, coverage=self.config.coverage, adaptation=self.config.adaptation
        )
        self._ring: OutcomeRing | None = OutcomeRing(self.config.backlog)
        self._totals = self._ring.counters
        self._tally = Tally()
        self._paused = not self.config.enabled
        self._failures = 0
        self._child: _Child | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._closing = False
        self._loop = asyncio.get_running_loop()

    # -- life ---------------------------------------------------------------------------------
    def start(self) -> None:
        """Warm the first snapshot, and start the process; it is ready a second or two later. No process is started
        where learning is not enabled."""
        if not self.snapshot.version:
            self.snapshot.warm()
        if self.config.enabled and self._child is None and not self._closing:
            self._start()

    async def wait_ready(self) -> None:
        """Return when the learner is ready for outcomes."""
        while self._child is None or not self._child.ready:
            await self._change()

    async def wait_adopted(self) -> None:
        """Return when the learner has taken or left everything that :meth:`adopt` offered."""
        while self._child is not None and self._child.offers:
            await self._change()

    async def wait_learned(self) -> None:
        """Return when nothing waits to be learned: everything offered is learned or skipped."""
        while self.waiting:  # noqa: ASYNC110 (counters in shared memory wake nobody)
            await asyncio.sleep(0.01)

    async def close(self, timeout_seconds: float = 10.0) -> None:
        """Let the learner learn what waits, store its state and end; kill it when that takes too long. What it did
        not get to is skipped as ``stopped``."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._child is not None:
            self._send({"exit": True})
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._gone()
            except TimeoutError:
                _log.warning("the learner does not end and is killed")
                self._kill()
                await self._gone()
        if self._ring is not None:
            self._tally.add("stopped", self.waiting)
            self._totals = self._ring.counters.copy()
            self._ring.close()
            self._ring = None

    @property
    def pid(self) -> int | None:
        """Process id of the learner, None while there is none."""
        return None if self._child is None else self._child.process.pid

    @property
    def ready(self) -> bool:
        """There is a learner that is ready for outcomes."""
        return self._child is not None and self._child.ready

    def adopt(self, body: bytes) -> bool:
        """Offer what another instance learned (``OnlineLayer.shared``; its signature was checked); False when there
        is no learner that listens."""
        if self._child is None or not self._child.ready:
            return False
        try:
            if not wire.send_file(self._child.connection, {"adopt": True}, body):
                return False
        except OSError:  # it is dying: its end is seen soon
            return False
        self._child.offers += 1
        return True

    # -- outcomes -----------------------------------------------------------------------------
    def offer(self, rows: Rows) -> None:
        """Hand over finished segments (``OUTCOME`` rows), each once. Copies; never blocks."""
        count = len(rows)
        self.finished += count
        if self._paused or self._closing or self._ring is None:
            self._tally.add("stopped" if self._closing else "paused", count)
            return
        useful = (rows["ending"] == DELIVERED) & (rows["profiled"] == 1)
        if not useful.all():
            self._count_useless(rows)
            rows = rows[useful]
        self._tally.add("learner_behind", len(rows) - self._ring.put(rows))

    def _count_useless(self, rows: Rows) -> None:
        shed = rows["ending"] == SHED
        delivered = rows["ending"] == DELIVERED
        self._tally.add("shed", int(np.count_nonzero(shed)))
        self._tally.add("failed_segment", int(np.count_nonzero(~shed & ~delivered)))
        self._tally.add("not_profiled", int(np.count_nonzero(delivered & (rows["profiled"] != 1))))

    def pause(self) -> None:
        """Learn nothing from what finishes from here on; it is skipped as ``paused``."""
        self._paused = True

    def resume(self) -> None:
        """Learn again."""
        self._paused = not self.config.enabled

    def set_objective(self, objective_ns: float) -> None:
        """Another latency objective, 0 for none."""
        self._objective_ns = objective_ns
        self._send({"objective_ns": objective_ns})

    # -- counts -------------------------------------------------------------------------------
    @property
    def learned(self) -> int:
        """Outcomes that were learned."""
        return int(self._totals[LEARNED])

    @property
    def skipped(self) -> Mapping[str, int]:
        """Outcomes that were not, by reason: ``learner_behind``, ``not_profiled``, ``failed_segment``, ``shed``,
        ``paused``, ``unmeasured``, ``learner_died``, ``stopped``."""
        counts = dict(self._tally.counts)
        if unmeasured := int(self._totals[UNMEASURED]):
            counts["unmeasured"] = unmeasured
        return counts

    @property
    def waiting(self) -> int:
        """Outcomes on their way: ``finished`` less learned and skipped."""
        return self.finished - self.learned - int(self._totals[UNMEASURED]) - self._tally.total()

    @property
    def drifts(self) -> int:
        """Outcomes in which a sudden change was noticed."""
        return int(self._totals[DRIFTS])

    @property
    def tree_counts(self) -> Mapping[str, int]:
        """What the costly models did: pieces (one outcome, one head) ``learned``, and skipped for ``budget``."""
        return {"learned": int(self._totals[TREE_LEARNED]), "budget": int(self._totals[TREE_SKIPPED])}

    # -- the process --------------------------------------------------------------------------
    def _start(self) -> None:
        assert self._ring is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        ours.setblocking(False)
        passed = [theirs.fileno(), self._ring.fd]
        base_fd = -1
        if self._base is not None:
            base_fd = wire.memory_file("streamspec-base", self._base.content)
            passed.append(base_fd)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamspec.profiles.learner_process", self._specification(theirs, base_fd)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        finally:
            theirs.close()
            if base_fd >= 0:
                os.close(base_fd)
        self._child = _Child(process, os.pidfd_open(process.pid), ours)
        self._loop.add_reader(ours.fileno(), self._readable, self._child)

    def _specification(self, theirs: socket.socket, base_fd: int) -> str:
        base, place = self._base, self._place
        assert self._ring is not None
        return json.dumps(
            {
                "socket": theirs.fileno(),
                "ring": self._ring.fd,
                "capacity": self._ring.capacity,
                "heads": wire.heads_to_json(self.plan.heads),
                "config": self.config.model_dump(mode="json"),
                "objective_ns": self._objective_ns,
                "version": self.snapshot.version,
                "share_interval": self._share_interval_seconds,
                "base_fd": base_fd,
                "base_bytes": 0 if base is None else len(base.content),
                "base_loader": "" if base is None else base.loader,
                "base_identity": "" if base is None else base.identity,
                "database": "" if place is None else str(place.database),
                "key": "" if place is None or place.key is None else str(place.key),
                "state_name": "" if place is None else place.name,
            }
        )

    def _send(self, content: Mapping[str, Any]) -> None:
        if self._child is None:
            return
        try:
            self._child.connection.send(wire.encode(content))
        except OSError:  # it is dying: its end is seen soon
            pass

    def _readable(self, child: _Child) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(child.connection, wire.MESSAGE_BYTES, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message, fds = b"", []
            if not message:
                self._ended(child)
                return
            self._take(child, wire.decode(message), fds)

    def _take(self, child: _Child, content: dict[str, Any], fds: list[int]) -> None:
        if content.get("ready"):
            child.ready = True
            self._failures = 0
            if self.on_ready is not None:
                self.on_ready()
            self._changed.set()
        elif "snapshot" in content and fds:
            body = wire.read_file(fds[0], int(content["bytes"]))
            self._publish(body)
        elif "shared" in content and fds:
            if self.on_shared is not None:
                self.on_shared(wire.read_file(fds[0], int(content["bytes"])))
        elif "adopted" in content:
            child.offers -= 1
            self.adopted += int(content["adopted"])
            if "refused" in content and self.on_refused is not None:
                self.on_refused(str(content["refused"]))
            self._changed.set()
        elif "log" in content:
            log = _log.warning if content["log"] != "info" else _log.info
            log(str(content["event"]), **content.get("fields", {}))
        for fd in fds:
            os.close(fd)

    def _publish(self, body: bytes) -> None:
        try:
            snapshot = Snapshot.from_bytes(body, self.plan, None if self._base is None else self._base.model)
        except ContentRefused as error:
            _log.error("a snapshot is not used", reason=str(error))
            return
        self.snapshot = snapshot
        self._changed.set()
        if self._on_snapshot is not None:
            self._on_snapshot(snapshot)

    # -- its end ------------------------------------------------------------------------------
    def _kill(self) -> None:
        if self._child is not None:
            try:
                signal.pidfd_send_signal(self._child.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _ended(self, child: _Child) -> None:
        self._loop.remove_reader(child.connection.fileno())
        child.connection.close()
        self._loop.add_reader(child.pidfd, self._reaped, child)

    def _reaped(self, child: _Child) -> None:
        self._loop.remove_reader(child.pidfd)
        os.close(child.pidfd)
        status = child.process.wait()
        self._child = None
        assert self._ring is not None
        self._tally.add("learner_died", self._ring.open_count - self._tally["learner_died"])
        self._changed.set()
        if self._closing:
            return
        self._failures += not child.ready
        self.restarts += 1
        delay_seconds = RESTART_DELAYS_SECONDS[min(self._failures, len(RESTART_DELAYS_SECONDS) - 1)]
        _log.warning("learner replaced", status=status, again_in_seconds=delay_seconds)
        self._timer = self._loop.call_later(delay_seconds, self.start)

    async def _gone(self) -> None:
        while self._child is not None:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
