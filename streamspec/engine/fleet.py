"""The warm fleet: worker processes that have built their chain and wait for batches.

A worker belongs to one lane at a time; moving it is an assignment, not a start. A worker that dies is
noticed by the end of its socket and replaced; a worker that cannot build its chain is not tried for ever.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from streamspec.core.errors import ConfigError, DependencyUnavailable, InternalError, StreamspecError
from streamspec.core.tally import Tally
from streamspec.engine import wire
from streamspec.engine.arena import Arena

_log = structlog.get_logger("streamspec.fleet")

SOCKET_BUFFER_BYTES = 1 << 20
RESTART_DELAYS_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Wait before the n-th replacement in a row that died before it was ready."""


@dataclass(frozen=True)
class ChainSpec:
    """What a worker needs to build its chain: a factory ``module:function`` and its JSON argument."""

    factory: str
    stages: list[dict[str, Any]]
    path: tuple[str, ...] = ()


@dataclass(eq=False)
class Worker:
    """One process as the dispatcher sees it.

    Attributes:
        index: 1 and up; the column ``holder`` of headers.
        lane: index of its lane, -1 while it has none.
        in_flight: slots sent and not reported.
        promised_ns: about how much predicted work they are; 0 without predictions.
        generation: of the chain that it built; see ``Fleet.renew``.
        granted_nice, granted_cores: what the kernel accepted.
        stage_counts: events counted by its stages so far.
    """

    index: int
    process: subprocess.Popen[bytes]
    pidfd: int
    connection: socket.socket
    generation: int
    lane: int = -1
    in_flight: int = 0
    promised_ns: float = 0.0
    ready: bool = False
    retiring: bool = False
    killed_for: str = ""
    granted_nice: int = 0
    granted_cores: frozenset[int] = field(default_factory=frozenset)
    stage_counts: dict[str, Tally] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def send(self, message: bytes | memoryview) -> bool:
        """Hand over one message; False when the worker is gone or its buffer is full."""
        try:
            self.connection.send(message)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def kill(self) -> None:
        """End it at once, through its pidfd: ``Popen.kill`` would reap it behind the fleet's back."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def set_nice(self, nice: int) -> None:
        """Set the nice level; going down needs CAP_SYS_NICE, without it the level stays as it is."""
        if nice == self.granted_nice:
            return
        try:
            os.setpriority(os.PRIO_PROCESS, self.pid, nice)
        except (PermissionError, ProcessLookupError) as error:
            _log.warning("nice level not granted", worker=self.index, asked=nice, reason=str(error))
            return
        self.granted_nice = nice

    def set_cores(self, cores: frozenset[int]) -> None:
        """Restrict to ``cores``; empty means every core that this process may use."""
        wanted = cores or frozenset(os.sched_getaffinity(0))
        if wanted == self.granted_cores:
            return
        try:
            os.sched_setaffinity(self.pid, wanted)
        except OSError as error:
            _log.warning("cores not granted", worker=self.index, asked=sorted(wanted), reason=str(error))
            return
        self.granted_cores = wanted


class FleetEvents(Protocol):
    """What the fleet tells the dispatcher."""

    def workers_changed(self) -> None:
        """Other workers than before may be given a lane: see ``Fleet.present``."""

    def worker_batch(self, worker: Worker, message: bytes) -> None:
        """Slots that it has finished."""

    def worker_spill(self, slot: int, fd: int, size_bytes: int) -> None:
        """The output of a slot, in a file that the receiver closes."""

    def worker_counts(self, worker: Worker, counts: dict[str, dict[str, int]]) -> None:
        """Events counted by its stages."""

    def worker_resources(self, worker: Worker, content: dict[str, Any]) -> None:
        """A message about grants; see ``Grants``."""

    def worker_gone(self, worker: Worker, reason: str) -> None:
        """The process has ended; what it held must be dealt with."""

    def fleet_failed(self, error: StreamspecError) -> None:
        """No worker can build the chain."""


@dataclass
class _Candidate:
    chain: ChainSpec
    generation: int
    ready: asyncio.Future[None]


class Fleet:
    """Starts, watches and replaces workers.

    Args:
        arena: memory that the workers map.
        chain: what they build.
        events: told of everything.
    """

    def __init__(self, arena: Arena, chain: ChainSpec, events: FleetEvents) -> None:
        self._arena = arena
        self._chain = chain
        self._events = events
        self._loop = asyncio.get_running_loop()
        self.workers: dict[int, Worker] = {}
        self.size = 0
        self.restarts = 0
        self._next_index = 1
        self._generation = 0
        self._candidate: _Candidate | None = None
        self._failures_in_row = 0
        self._changed = asyncio.Event()
        self._timers: set[asyncio.TimerHandle] = set()
        self._closing = False

    # -- size -------------------------------------------------------------------------------
    def resize(self, size: int) -> None:
        """Start workers up to ``size``, or retire the youngest above it."""
        self.size = size
        living = [w for w in self.workers.values() if not w.retiring and w.generation == self._generation]
        for _ in range(size - len(living)):
            self._start(self._generation, self._chain)
        for worker in sorted(living, key=lambda w: w.index)[size:]:
            self.retire(worker)

    async def warm(self, chain: ChainSpec) -> None:
        """Start as many workers again with another chain and return when they are ready; nothing is
        given to them before :meth:`switch`. Raises what kept them from building it; then they are gone
        and the present ones are untouched."""
        self._candidate = _Candidate(chain, self._generation + 1, self._loop.create_future())
        try:
            for _ in range(self.size):
                self._start(self._candidate.generation, chain)
            await self._candidate.ready
        except BaseException:
            self._candidate = None
            for worker in self.workers.values():
                if worker.generation > self._generation:
                    worker.retiring = True
                    worker.kill()
            raise

    def switch(self) -> None:
        """Make the workers of :meth:`warm` the present ones and retire the others."""
        assert self._candidate is not None
        self._chain, self._generation = self._candidate.chain, self._candidate.generation
        self._candidate = None
        for worker in self.workers.values():
            if worker.generation < self._generation:
                self.retire(worker)

    def present(self) -> list[Worker]:
        """Workers that may be given a lane."""
        return [w for w in self.workers.values() if w.ready and not w.retiring and w.generation == self._generation]

    def retire(self, worker: Worker) -> None:
        """Let it finish what it holds and exit."""
        if not worker.retiring:
            worker.retiring = True
            worker.send(wire.encode_control({"exit": True}))
            self._events.workers_changed()

    async def wait_ready(self) -> None:
        """Return when ``size`` workers of the present chain are ready."""
        while len(self.present()) < self.size:
            self._changed.clear()
            await self._changed.wait()

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Let all workers exit; kill those that do not."""
        self._closing = True
        for timer in self._timers:
            timer.cancel()
        for worker in list(self.workers.values()):
            self.retire(worker)
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._all_gone()
        except TimeoutError:
            for worker in self.workers.values():
                worker.kill()
            await self._all_gone()

    async def _all_gone(self) -> None:
        while self.workers:
            self._changed.clear()
            await self._changed.wait()

    def kill(self, worker: Worker, reason: str) -> None:
        """End a worker at once; its segments are dealt with when its socket ends."""
        worker.killed_for = reason
        worker.kill()

    # -- one worker -------------------------------------------------------------------------
    def _start(self, generation: int, chain: ChainSpec) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        ours.setblocking(False)
        index = self._next_index
        self._next_index = index % 0xFFFF + 1
        spec = {
            "worker": index,
            "socket": theirs.fileno(),
            "arena": self._arena.fd,
            "slots": self._arena.slots,
            "layout": _layout_fields(self._arena),
            "factory": chain.factory,
            "stages": chain.stages,
            "path": chain.path,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "streamspec.engine.worker", json.dumps(spec)],
            pass_fds=(theirs.fileno(), self._arena.fd),
            stdin=subprocess.DEVNULL,
            stdout=sys.__stderr__,  # what a stage prints must not mix with results on standard output
        )
        theirs.close()
        worker = Worker(index, process, os.pidfd_open(process.pid), ours, generation)
        self.workers[index] = worker
        self._loop.add_reader(ours.fileno(), self._readable, worker)

    def _readable(self, worker: Worker) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(worker.connection, wire.MESSAGE_BYTES, 4)
            except BlockingIOError:
                return
            except ConnectionResetError:
                message, fds = b"", []
            if not message:
                self._ended(worker)
                return
            kind = wire.kind_of(message)
            if kind >= 0:
                self._events.worker_batch(worker, message)
            elif kind == wire.SPILL:
                slot, size = wire.decode_spill(message)
                self._events.worker_spill(slot, fds[0], size)
            else:
                self._control(worker, wire.decode_control(message))

    def _control(self, worker: Worker, content: dict[str, Any]) -> None:
        if content.get("ready"):
            worker.ready = True
            self._failures_in_row = 0
            self._events.workers_changed()
            self._check_candidate()
            self._changed.set()
        elif "counts" in content:
            self._events.worker_counts(worker, content["counts"])
        elif "resources" in content:
            self._events.worker_resources(worker, content["resources"])
        elif "failed" in content:
            worker.retiring = True
            self._give_up(worker.generation, _chain_error(content))

    def _check_candidate(self) -> None:
        candidate = self._candidate
        if candidate is None or candidate.ready.done():
            return
        if sum(w.ready and w.generation == candidate.generation for w in self.workers.values()) >= self.size:
            candidate.ready.set_result(None)

    def _give_up(self, generation: int, error: StreamspecError) -> None:
        if self._candidate is not None and generation == self._candidate.generation:
            if not self._candidate.ready.done():
                self._candidate.ready.set_exception(error)
        elif generation == self._generation:
            self._events.fleet_failed(error)

    def _ended(self, worker: Worker) -> None:
        self._loop.remove_reader(worker.connection.fileno())
        worker.connection.close()
        if not worker.retiring:
            worker.kill()  # a stage may have closed the socket behind our back
        was_ready, worker.ready = worker.ready, False
        self._events.workers_changed()
        self._loop.add_reader(worker.pidfd, self._reaped, worker, was_ready)

    def _reaped(self, worker: Worker, was_ready: bool) -> None:
        self._loop.remove_reader(worker.pidfd)
        os.close(worker.pidfd)
        status = worker.process.wait()
        del self.workers[worker.index]
        reason = worker.killed_for or _status_text(status)
        self._events.worker_gone(worker, reason)
        self._changed.set()
        if worker.retiring or self._closing:
            return
        self.restarts += 1
        if not was_ready:
            self._failures_in_row += 1
        if self._failures_in_row >= len(RESTART_DELAYS_SECONDS):
            self._give_up(
                worker.generation,
                InternalError(
                    "workers end before they are ready",
                    where="engine.workers",
                    value=reason,
                    next_step="read the worker's own output above",
                ),
            )
            return
        _log.warning("worker replaced", worker=worker.index, pid=worker.pid, reason=reason)
        self._start_after(RESTART_DELAYS_SECONDS[self._failures_in_row], worker.generation)

    def _start_after(self, seconds: float, generation: int) -> None:
        def start() -> None:
            self._timers.discard(timer)
            chain = self._chain_of(generation)
            living = sum(not w.retiring and w.generation == generation for w in self.workers.values())
            if not self._closing and chain is not None and living < self.size:
                self._start(generation, chain)

        timer = self._loop.call_later(seconds, start)
        self._timers.add(timer)

    def _chain_of(self, generation: int) -> ChainSpec | None:
        if generation == self._generation:
            return self._chain
        if self._candidate is not None and generation == self._candidate.generation:
            return self._candidate.chain
        return None


def _layout_fields(arena: Arena) -> dict[str, int]:
    layout = arena.layout
    return {name: getattr(layout, name) for name in layout.__dataclass_fields__}


def _status_text(status: int) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"exited with status {status}"


_ERRORS: dict[int, Callable[[str], StreamspecError]] = {78: ConfigError, 69: DependencyUnavailable}


def _chain_error(content: dict[str, Any]) -> StreamspecError:
    return _ERRORS.get(content["exit_code"], InternalError)(content["failed"])
