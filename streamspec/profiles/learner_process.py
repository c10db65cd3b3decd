"""The learner process: takes outcomes from the ring, learns them, publishes snapshots, keeps its state.

Started as ``python -m streamspec.profiles.learner_process SPEC`` with the ring and one socket as descriptors, at a
low priority. It never makes the dispatcher wait; when it dies, what it had taken is counted and another one goes on
from the stored state.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from streamspec.core.errors import StreamspecError
from streamspec.core.outcome import OUTCOME
from streamspec.core.prediction import Head
from streamspec.profiles import learner_wire as wire
from streamspec.profiles.challenger import new_tree
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.head_plan import BasePredictor
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.outcome_ring import (
    DRIFTS,
    LEARNED,
    TREE_LEARNED,
    TREE_SKIPPED,
    UNMEASURED,
    OutcomeRing,
)
from streamspec.profiles.state_keeper import StateKeeper

BATCH_ROWS = 256
"""Outcomes learned at a time: what a killed learner loses at most."""
HURRY_SHARE = 0.25
"""Fill of the ring beyond which the trees are left out, so that no outcome is skipped for their sake."""
IDLE_MS = 20
"""How long it sleeps when there is nothing to learn."""
DRIFT_INTERVAL_NS = 50_000_000
"""Shortest time between snapshots, after drifts."""
LAST_LESSONS_NS = 2_000_000_000
"""How long it goes on learning what waits after it was told to end."""
GRACE_SECONDS = 5

_PR_SET_PDEATHSIG = 1
_SCHED_BATCH = 3


class LearnerLoop:
    """Learns until the dispatcher says so or is gone."""

    def __init__(
        self,
        connection: socket.socket,
        ring: OutcomeRing,
        layer: OnlineLayer,
        keeper: StateKeeper,
        version: int,
        share_interval_seconds: float = 0.0,
    ) -> None:
        self._connection = connection
        self._ring = ring
        self._layer = layer
        self._keeper = keeper
        self._version = version
        self._interval_ns = round(layer.config.snapshot_interval * 1e9)
        self._share_ns = round(share_interval_seconds * 1e9)
        self._shared_ns = time.monotonic_ns()
        self._shared_learned = 0
        self._published_ns = 0
        self._unpublished = True
        self._drifted = False
        self._ending = False
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)

    def run(self) -> None:
        """Returns when everything is learned and stored after the end was announced."""
        self._publish(time.monotonic_ns())
        end_ns = 0
        while True:
            learned = self._learn()
            now_ns = time.monotonic_ns()
            self._publish_when_due(now_ns)
            self._keeper.keep_when_due(self._layer, now_ns)
            if self._share_ns and now_ns - self._shared_ns >= self._share_ns:
                self._share(now_ns)
            if self._ending:
                end_ns = end_ns or now_ns + LAST_LESSONS_NS
                if not learned or now_ns > end_ns:
                    break
            if self._poll.poll(0 if learned else IDLE_MS):
                self._read()
        if self._unpublished:
            self._publish(now_ns)
        if self._share_ns:
            self._share(now_ns)
        self._keeper.keep(self._layer)

    def end(self) -> None:
        """Learn what waits, store, and return."""
        self._ending = True

    def _learn(self) -> bool:
        rows = self._ring.take(BATCH_ROWS)
        if not len(rows):
            return False
        lesson = self._layer.learn(rows, hurry=self._ring.waiting > self._ring.capacity * HURRY_SHARE)
        counters = self._ring.counters
        counters[UNMEASURED] += lesson.unmeasured
        counters[LEARNED] += lesson.learned
        counters[DRIFTS] += lesson.drifts
        counters[TREE_LEARNED] += lesson.tree_learned
        counters[TREE_SKIPPED] += lesson.tree_skipped
        self._unpublished = True
        self._drifted = self._drifted or lesson.drifts > 0
        return True

    def _publish_when_due(self, now_ns: int) -> None:
        since_ns = now_ns - self._published_ns
        due = since_ns >= self._interval_ns or (self._drifted and since_ns >= DRIFT_INTERVAL_NS)
        if self._unpublished and due:
            self._publish(now_ns)

    def _publish(self, now_ns: int) -> None:
        snapshot = self._layer.snapshot(self._version + 1)
        self._published_ns = now_ns
        try:
            sent = wire.send_file(self._connection, {"snapshot": snapshot.version}, snapshot.to_bytes())
        except OSError:
            self._ending = True
            return
        if sent:
            self._version += 1
            self._unpublished = self._drifted = False

    def _share(self, now_ns: int) -> None:
        """Say what other instances can start from, if there is something new."""
        self._shared_ns = now_ns
        if self._layer.learned == self._shared_learned:
            return
        try:
            if wire.send_file(self._connection, {"shared": self._layer.learned}, self._layer.shared()):
                self._shared_learned = self._layer.learned
        except OSError:
            self._ending = True

    def _adopt(self, body: bytes) -> None:
        """Take over from another instance what it knows much better, and predict with it at once."""
        before = self._layer.learned
        answer: dict[str, Any] = {"adopted": 0}
        try:
            answer["adopted"] = self._layer.adopt(body)
        except StreamspecError as error:
            answer["refused"] = str(error)
        if answer["adopted"]:
            if before == self._shared_learned:
                self._shared_learned = self._layer.learned  # nothing of our own is new
            self._publish(time.monotonic_ns())
        try:
            self._connection.send(wire.encode(answer))
        except OSError:
            self._ending = True

    def _read(self) -> None:
        fds: list[int] = []
        try:
            message, fds, _, _ = socket.recv_fds(self._connection, wire.MESSAGE_BYTES, 1)
        except OSError:
            message = b""
        content = wire.decode(message) if message else {"exit": True}
        if "adopt" in content and fds:
            self._adopt(wire.read_file(fds[0], int(content["bytes"])))
        for fd in fds:
            os.close(fd)
        if "objective_ns" in content:
            self._layer.objective_ns = float(content["objective_ns"])
        if content.get("exit"):
            self._poll.unregister(self._connection.fileno())
            self.end()


def load_base(spec: dict[str, Any]) -> BasePredictor | None:
    """The base model that the dispatcher uses too: ``SPEC["base_loader"]`` (``module:function``) of its bytes."""
    if spec["base_fd"] < 0:
        return None
    content = wire.read_file(spec["base_fd"], spec["base_bytes"])
    os.close(spec["base_fd"])
    module, _, function = spec["base_loader"].partition(":")
    base: BasePredictor = getattr(importlib.import_module(module), function)(content)
    return base


def warm_kernels(heads: tuple[Head, ...], base: BasePredictor | None) -> None:
    """Load or compile everything now, rather than while the first outcomes wait."""
    layer = OnlineLayer(heads, base, LearningConfig(tree_cpu_share=0.0), objective_ns=1.0)
    layer.learn(np.zeros(1, dtype=OUTCOME))
    layer.snapshot(1).warm()


def yield_to_others(nice: int) -> None:
    """Lower priority; what the kernel refuses stays as it is."""
    try:
        os.nice(nice)
        os.sched_setscheduler(0, _SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass


def build_layer(spec: dict[str, Any], config: LearningConfig) -> OnlineLayer:
    """The layer of the specification, with nothing left to load."""
    heads, base = wire.heads_from_json(spec["heads"]), load_base(spec)
    warm_kernels(heads, base)
    if config.tree_cpu_share > 0:
        new_tree()  # loads River now rather than between two outcomes
    return OnlineLayer(heads, base, config, base_identity=spec["base_identity"], objective_ns=spec["objective_ns"])


def main(argument: str) -> int:
    """Entry of the process. ``argument`` is the JSON specification."""
    spec = json.loads(argument)
    for number in (signal.SIGINT, signal.SIGTERM):  # of a terminal or a service manager, to all: the dispatcher's
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=spec["socket"])
    ring = OutcomeRing(spec["capacity"], fd=spec["ring"])

    def tell(level: str, event: str, **fields: Any) -> None:
        try:
            connection.send(wire.encode({"log": level, "event": event, "fields": fields}), socket.MSG_DONTWAIT)
        except OSError:
            pass

    config = LearningConfig.model_validate(spec["config"])
    database = Path(spec["database"]) if spec["database"] else None
    key = Path(spec["key"]) if spec["key"] else None
    keeper = StateKeeper(database, key, spec["state_name"], config.state_interval, tell)
    try:
        layer = build_layer(spec, config)
        keeper.restore(layer)
        loop = LearnerLoop(connection, ring, layer, keeper, spec["version"], spec["share_interval"])
        _end_with_parent(loop)
        gc.collect()
        gc.freeze()
        yield_to_others(config.nice)  # not before: a saturated host would keep it from ever being ready
        connection.send(wire.encode({"ready": True}))
        loop.run()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the dispatcher is gone
    except StreamspecError as error:
        tell("error", "the learner cannot go on", reason=str(error))
        return error.exit_code
    finally:
        keeper.close()
    return 0


def _end_with_parent(loop: LearnerLoop) -> None:
    """When the dispatcher dies: store what was learned, then end; at the latest after a few seconds. Its end of the
    socket closes too, whichever is seen first."""

    def ask(_number: int, _frame: object) -> None:
        signal.alarm(GRACE_SECONDS)
        loop.end()

    signal.signal(signal.SIGUSR1, ask)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
