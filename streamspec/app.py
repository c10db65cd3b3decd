"""The one place that builds and wires things: a configuration in, a running service out."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from streamspec.assembly.control import starting_plan
from streamspec.assembly.gpu import GpuPool, wants_gpu
from streamspec.assembly.recording import Recording, trace_header
from streamspec.assembly.sinks import build_runner, copies_of
from streamspec.assembly.steering import Steering, build_foresight
from streamspec.config import ServiceConfig, load_config
from streamspec.core.clock import SystemClock
from streamspec.core.component import SinkConfigBase, SourceConfigBase
from streamspec.core.errors import EXIT_OK, InternalError, StreamspecError
from streamspec.core.features import TYPE_CODES
from streamspec.core.interfaces import ClosableSource, Reducer, Sink, Source, TransactionalSink
from streamspec.core.segment import CONTENT_MESSAGES, CONTENT_PACKETS
from streamspec.engine.arena import Arena
from streamspec.engine.controller import lane_specs
from streamspec.engine.delivery import SinkRunner
from streamspec.engine.dispatcher import Dispatcher, LaneSpec, Limits
from streamspec.engine.fleet import ChainSpec
from streamspec.engine.intake import EngineIntake
from streamspec.engine.router import NO_LIMIT, LaneRule
from streamspec.engine.status import ServiceFacts, SourceFacts, StatusReader
from streamspec.stages.chain import FACTORY, stage_names
from streamspec.telemetry.decisions import DecisionLog
from streamspec.telemetry.logging import configure_logging
from streamspec.telemetry.state import Mode, NotControllable, PartitionedSource, Phase

if TYPE_CHECKING:
    from streamspec.admin.server import AdminServer
    from streamspec.profiler.profiler import Profiler

_log = structlog.get_logger("streamspec.app")

DEAD_LETTER = "dead_letter"
_CONTENT = {None: -1, "packets": CONTENT_PACKETS, "messages": CONTENT_MESSAGES}


@dataclass
class RunningSource:
    """A source, its intake and the task that reads it."""

    config: SourceConfigBase
    source: Source
    intake: EngineIntake
    task: asyncio.Task[None] | None = None


@dataclass
class Service:
    """One running service. Create it inside the event loop that it shall live in.

    Args:
        config: validated.
        reread: gives the configuration anew for a reload; raises ConfigError when it is bad.
    """

    config: ServiceConfig
    reread: Callable[[], ServiceConfig] | None = None
    sources: dict[str, RunningSource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._error: StreamspecError | None = None
        self._signal: signal.Signals | None = None
        self._drained = True
        self._abort = asyncio.Event()
        self._reload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.started_ns = time.monotonic_ns()
        self.phase: Phase = "starting"
        self.decisions = DecisionLog()
        self.steering: Steering | None = None
        self.status: StatusReader | None = None
        self.admin: AdminServer | None = None
        engine = self.config.engine
        layout = engine.layout
        arena = Arena(layout, Arena.slots_within(layout, engine.arena_bytes))
        self.profiler: Profiler | None
        self.profiler, foresight = build_foresight(self.config, arena)
        self.dispatcher = Dispatcher(
            arena,
            configured_lanes(self.config, ()),
            chain_spec(self.config),
            reducers=build_reducers(self.config),
            ordered=engine.order == "key",
            limits=_limits(self.config),
            failed=self.fail,
            clock=SystemClock(),
            foresight=foresight,
        )
        limit_bytes = self.config.control.guard.bounds.gpu_memory_bytes
        self.gpu = GpuPool(self.dispatcher, limit_bytes, wanted=wants_gpu(self.config))

    # -- life ---------------------------------------------------------------------------------
    async def run(self) -> int:
        """Start, run until the sources end or :meth:`stop`, drain, close. Returns the exit code;
        raises StreamspecError when something that it needs cannot be had."""
        try:
            await self._start()
            await self._until_done()
            self.phase = "draining"
            await self._stop_sources()
            if self._error is None:
                await self._drain()
        finally:
            await self._close()
        if self._error is not None:
            raise self._error
        if self._signal is not None and not self._drained:
            return 128 + self._signal
        return EXIT_OK

    async def _start(self) -> None:
        await self._open_admin()
        for name, sink in self.config.sinks.items():
            self.dispatcher.delivery.sinks.append(await self._open_sink(name, sink, copies_of(self.config, sink)))
        if self.config.dead_letter is not None:
            self.dispatcher.delivery.dead_letter = await self._open_sink(DEAD_LETTER, self.config.dead_letter)
        await self.gpu.open()
        self.gpu.lend(self.profiler)
        await self._until_started(self.dispatcher.start(self.config.fleet_workers))
        steering = self._steer(self.config)
        for name, source in self.config.sources.items():
            await self._open_source(name, source)
        steering.rules_changed(lane_rules(self.config, self.dispatcher.source_names))
        steering.start()
        await self._until_started(steering.warm())
        for running in self.sources.values():
            self._run_source(running)
        self.started_ns = time.monotonic_ns()
        self.phase = "running"
        _log.info("started", sources=list(self.config.sources), workers=self.config.fleet_workers)

    async def _until_started(self, start: Any) -> None:
        starting = asyncio.ensure_future(start)
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        if self._error is not None:
            raise self._error
        if not starting.cancelled():
            starting.result()

    async def _until_done(self) -> None:
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                reading = [s.task for s in self.sources.values() if s.task is not None and not s.task.done()]
                if not reading and not self._reload_lock.locked():
                    return
                await asyncio.wait({stopping, *reading}, return_when=asyncio.FIRST_COMPLETED, timeout=1.0)
        finally:
            stopping.cancel()

    async def _stop_sources(self) -> None:
        for running in self.sources.values():
            await running.source.stop()
        tasks = [s.task for s in self.sources.values() if s.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self) -> None:
        """Without a limit while only the sources have ended; within ``drain_timeout`` once someone asks
        to stop; not at all when someone insists."""
        draining = asyncio.ensure_future(self.dispatcher.drain())
        stopping = asyncio.ensure_future(self._stopping.wait())
        aborted = asyncio.ensure_future(self._abort.wait())
        await asyncio.wait({draining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(
            {draining, aborted}, timeout=self.config.engine.drain_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        self._drained = draining.done()
        for task in (draining, stopping, aborted):
            task.cancel()
        await asyncio.gather(draining, stopping, aborted, return_exceptions=True)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._stop_sources()
        await self._close_admin()
        left = self.dispatcher.abandon_unfinished("stopped")
        if left:
            _log.error("stopped before everything was finished", segments=left)
        for running in self.sources.values():
            if isinstance(running.source, ClosableSource):
                await running.source.close()
        if self.steering is not None:
            await self.steering.close()
        self.gpu.lend(None)  # while its arena is there
        await self.dispatcher.close()
        await self.gpu.close()

    # -- signals ------------------------------------------------------------------------------
    def stop(self, number: signal.Signals | None = None) -> None:
        """Stop taking in, finish what is under way, then :meth:`run` returns. A second call aborts."""
        self._signal = number
        reason = number.name if number else "stop"
        if self._stopping.is_set():
            _log.warning("stopping at once", reason=reason)
            self._abort.set()
        else:
            _log.info("draining", reason=reason)
            self._stopping.set()

    def fail(self, error: StreamspecError) -> None:
        """The service cannot go on; :meth:`run` raises ``error``."""
        if self._error is None:
            self._error = error
        self._stopping.set()
        self._abort.set()

    def install_signals(self) -> None:
        """SIGTERM and SIGINT drain (a second one stops at once), SIGHUP reloads."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop, number)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_soon)

    # -- components ---------------------------------------------------------------------------
    async def _open_sink(self, name: str, config: SinkConfigBase, copies: int = 1) -> SinkRunner:
        runner = build_runner(name, self._copies(name, config, copies), self.dispatcher, self.fail)
        await runner.open()
        return runner

    def _copies(self, name: str, config: SinkConfigBase, copies: int) -> list[Sink]:
        return [self._built(name, config) for _ in range(copies)]

    def _built(self, name: str, config: SinkConfigBase) -> Sink:
        sink = config.build(name)
        if isinstance(sink, TransactionalSink):
            sink.attach(self._source_named)
        return sink

    def _source_named(self, name: str) -> Source | None:
        running = self.sources.get(name)
        return None if running is None else running.source

    async def _open_source(self, name: str, config: SourceConfigBase) -> RunningSource:
        source = config.build(name)
        intake = self.dispatcher.add_source(name, source)
        running = RunningSource(config, source, intake)
        self._declare_type(running)
        try:
            await source.open(intake)
        except BaseException:
            self.dispatcher.remove_source(source)
            raise
        self.sources[name] = running
        return running

    def _declare_type(self, running: RunningSource) -> None:
        if self.profiler is not None and running.config.content_type is not None:
            self.profiler.declare(running.intake.source, TYPE_CODES[running.config.content_type])

    def _run_source(self, running: RunningSource) -> None:
        async def run() -> None:
            try:
                await running.source.run()
            except StreamspecError as error:
                self.fail(error)
            except Exception as error:
                _log.exception("source failed")
                self.fail(InternalError(f"{type(error).__name__}: {error}", where="sources"))

        running.task = asyncio.create_task(run())

    # -- reload -------------------------------------------------------------------------------
    def _reload_soon(self) -> None:
        task = asyncio.create_task(self._reload_logged())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload_logged(self) -> None:
        if self.reread is None:
            _log.warning("no configuration file to reload")
            return
        try:
            config = self.reread()
            await self.reload(config)
        except StreamspecError as error:
            _log.error("reload refused, the old configuration stays", reason=str(error))
        except Exception as error:
            _log.exception("reload failed, what was not exchanged yet stays", reason=repr(error))

    async def reload(self, config: ServiceConfig) -> None:
        """Apply the difference between the present configuration and ``config``.

        What needs new memory (sizes and order in ``engine``) stays as it is until a restart, and is
        logged. Raises StreamspecError when a part cannot be had; that part stays as it was.
        """
        async with self._reload_lock:
            before, config = self.config, _keep_fixed(self.config, config)
            if config.admin != self.config.admin:
                _log.warning("needs a restart, stays as it is", section="admin")
                config = config.model_copy(update={"admin": self.config.admin})
            if config.stages != self.config.stages:
                await self.dispatcher.replace_chain(chain_spec(config), build_reducers(config))
                self.config = self.config.model_copy(update={"stages": config.stages})
            await self._reload_sinks(config)
            await self._reload_sources(config)
            self.dispatcher.limits = _limits(config)
            await self._reload_steering(before, config)
            if config.logging != self.config.logging:
                configure_logging(config.logging.level, config.logging.format)
            self.config = config
            _log.info("reloaded")

    async def _reload_steering(self, before: ServiceConfig, config: ServiceConfig) -> None:
        """What learns and controls is built anew when anything that it stands on is another; else it goes on, and
        its lanes take segments by the new rules."""
        steering = self.steering
        assert steering is not None
        if all(getattr(config, part) == getattr(before, part) for part in _STEERED):
            steering.rules_changed(lane_rules(config, self.dispatcher.source_names))
            return
        await steering.close()
        self.profiler, foresight = build_foresight(config, self.dispatcher.arena)
        self.gpu.lend(self.profiler)
        self.dispatcher.foresee(foresight)
        for running in self.sources.values():
            self._declare_type(running)
        self.dispatcher.fleet.resize(config.fleet_workers)
        self.dispatcher.set_lanes(configured_lanes(config, self.dispatcher.source_names))
        self._steer(config).start()

    def _steer(self, config: ServiceConfig) -> Steering:
        rules = lane_rules(config, self.dispatcher.source_names)
        self.steering = Steering(config, self.dispatcher, self.decisions, rules, self.gpu)
        return self.steering

    async def _reload_sinks(self, config: ServiceConfig) -> None:
        delivery = self.dispatcher.delivery
        for name, previous in self.config.sinks.items():
            new = config.sinks.get(name)
            if new == previous and copies_of(config, previous) == copies_of(self.config, previous):
                continue
            old = next(runner for runner in delivery.sinks if runner.name == name)
            if new is not None:
                await self._exchange_sink(old, new, previous, copies_of(config, new))
            else:
                delivery.sinks.remove(old)
                await old.idle()
                await old.close()
        for name in [n for n in config.sinks if n not in self.config.sinks]:
            sink = config.sinks[name]
            delivery.sinks.append(await self._open_sink(name, sink, copies_of(config, sink)))
        if config.dead_letter != self.config.dead_letter:
            old_letter, delivery.dead_letter = delivery.dead_letter, None
            if old_letter is not None:
                await old_letter.idle()
                await old_letter.close()
            if config.dead_letter is not None:
                delivery.dead_letter = await self._open_sink(DEAD_LETTER, config.dead_letter)

    async def _exchange_sink(self, old: SinkRunner, new: SinkConfigBase, previous: SinkConfigBase, copies: int) -> None:
        """The new one takes the old one's place at once and holds what comes until it is open: both may
        want the same file or port."""
        delivery = self.dispatcher.delivery
        runner = build_runner(old.name, self._copies(old.name, new, copies), self.dispatcher, self.fail)
        delivery.sinks[delivery.sinks.index(old)] = runner
        await old.idle()
        await old.close()
        try:
            await runner.open()
        except StreamspecError:
            runner.exchange(*self._copies(old.name, previous, copies))
            await runner.open()
            raise

    async def _reload_sources(self, config: ServiceConfig) -> None:
        changed = [n for n, running in self.sources.items() if config.sources.get(n) != running.config]
        for name in changed:
            await self._close_source(name)
        for name in [n for n in config.sources if n not in self.sources]:
            try:
                running = await self._open_source(name, config.sources[name])
            except StreamspecError:
                if name in self.config.sources:
                    self._run_source(await self._open_source(name, self.config.sources[name]))
                raise
            self._run_source(running)

    async def _close_source(self, name: str) -> None:
        running = self.sources[name]
        await running.source.stop()
        if running.task is not None:
            await running.task
        await self.dispatcher.source_finished(running.source)
        if isinstance(running.source, ClosableSource):
            await running.source.close()
        self.dispatcher.remove_source(running.source)
        del self.sources[name]

    # -- what is shown and switched over HTTP -------------------------------------------------
    async def _open_admin(self) -> None:
        if self.config.admin is None:
            return
        from streamspec.admin.server import AdminServer

        self.status = StatusReader(self.dispatcher, self._facts, self.decisions)
        admin = AdminServer(self.config.admin, self.status, self)
        await admin.open()
        self.status.start()
        self.admin = admin

    async def _close_admin(self) -> None:
        if self.admin is not None:
            await self.admin.close()
        if self.status is not None:
            self.status.close()

    def _facts(self) -> ServiceFacts:
        config = self.config
        return ServiceFacts(
            phase=self.phase,
            objective_latency_seconds=config.objective.latency,
            percentile=config.objective.percentile,
            stage_names=stage_names([stage.type for stage in config.stages]),
            sources=[
                SourceFacts(
                    name,
                    running.config.model_dump(include={"type"})["type"],
                    running.task is not None and not running.task.done(),
                    running.intake.tally.counts,
                    running.source.status()["partitions"] if isinstance(running.source, PartitionedSource) else {},
                )
                for name, running in self.sources.items()
            ],
            lane_objectives_seconds=self.steering.lane_objectives_seconds() if self.steering else {},
            sink_types={name: sink.model_dump(include={"type"})["type"] for name, sink in config.sinks.items()},
            learning=self.steering.learning if self.steering else None,
            control=self.steering.control if self.steering else None,
            gpus=self.gpu.uses,
        )

    def set_mode(self, mode: Mode) -> None:
        """Another mode of the controller. Raises NotControllable where there is none."""
        if self.steering is None:
            raise NotControllable("there is no controller", where="control.mode", value=mode)
        self.steering.control.set_mode(mode)

    def pause_learning(self, paused: bool) -> None:
        """Stop or resume learning. Raises NotControllable where nothing is learned."""
        if self.steering is None or self.steering.learning is None:
            raise NotControllable("nothing is learned here", where="learning")
        self.steering.learning.pause(paused)

    # -- reading ------------------------------------------------------------------------------
    def summary(self) -> dict[str, Any]:
        """What was received and what became of it; all times in seconds."""
        dispatcher, accounts = self.dispatcher, self.dispatcher.accounts
        elapsed_seconds = max((time.monotonic_ns() - self.started_ns) / 1e9, 1e-9)
        return {
            "elapsed_seconds": round(elapsed_seconds, 3),
            "segments_received": accounts.received_segments,
            "segments_delivered": accounts.delivered_segments,
            "segments_shed": accounts.shed_segments,
            "segments_dead_lettered": accounts.dead_lettered_segments,
            "segments_in_flight": accounts.unfinished_segments,
            "segments_lost": accounts.unfinished_segments,
            "packets_received": accounts.received_packets,
            "bytes_received": accounts.received_bytes,
            "bytes_delivered": accounts.delivered_bytes,
            "latency_seconds": {
                "p50": _number(accounts.latency_seconds(50)),
                "p99": _number(accounts.latency_seconds(99)),
            },
            "retries": accounts.retries,
            "worker_restarts": dispatcher.fleet.restarts,
            "shed_reasons": accounts.shed.counts,
            "records": dispatcher.delivery.records.counts,
            **({} if self.profiler is None or self.profiler.gpu is None else {"profiler": self.profiler.gpu.summary()}),
            "sources": {name: running.intake.tally.counts for name, running in self.sources.items()},
            "stages": {name: tally.counts for name, tally in dispatcher.stage_counts.items()},
            "sinks": {runner.name: runner.tally.counts for runner in dispatcher.delivery.runners()},
            "lanes": {
                lane.name: {
                    "queued": len(lane),
                    "workers": len(lane.workers),
                    "p50": _number(accounts.latency_seconds(50, lane.index)),
                    "p99": _number(accounts.latency_seconds(99, lane.index)),
                }
                for lane in dispatcher.lanes
            },
            **({} if self.steering is None else self.steering.summary()),
        }


def chain_spec(config: ServiceConfig) -> ChainSpec:
    """What workers need to build the configured stages."""
    return ChainSpec(FACTORY, [stage.model_dump(mode="json") for stage in config.stages])


def configured_lanes(config: ServiceConfig, source_names: Sequence[str]) -> list[LaneSpec]:
    """The lanes that the configuration amounts to."""
    return lane_specs(starting_plan(config), lane_rules(config, source_names))


def lane_rules(config: ServiceConfig, source_names: Sequence[str]) -> dict[str, LaneRule]:
    """Which segments each configured lane takes, in order of matching."""
    indices = {name: index for index, name in enumerate(source_names)}
    return {
        lane.name: LaneRule(
            lane=index,
            sources=frozenset(indices[name] for name in lane.match.sources if name in indices),
            min_bytes=lane.match.min_bytes or 0,
            max_bytes=lane.match.max_bytes if lane.match.max_bytes is not None else int(NO_LIMIT),
            keys=tuple(key.encode() for key in lane.match.keys),
            content=_CONTENT[lane.match.content],
            types=frozenset(TYPE_CODES[name] for name in lane.match.types),
        )
        for index, lane in enumerate(config.effective_lanes)
    }


def build_reducers(config: ServiceConfig) -> Mapping[int, Reducer]:
    """The dispatcher's halves of the configured stages, by index."""
    built = {index: stage.build_reducer() for index, stage in enumerate(config.stages)}
    return {index: reducer for index, reducer in built.items() if reducer is not None}


def _limits(config: ServiceConfig) -> Limits:
    engine = config.engine
    return Limits(engine.retries, engine.max_deaths, engine.time_limit)


_STEERED = ("objective", "stages", "profiler", "learning", "profiles", "control", "lanes", "engine")
"""Sections that what learns and controls stands on."""

_CHANGEABLE = {"workers", "spare", "retries", "max_deaths", "time_limit", "drain_timeout"}


def _keep_fixed(old: ServiceConfig, new: ServiceConfig) -> ServiceConfig:
    fixed = {
        name: getattr(old.engine, name)
        for name in type(old.engine).model_fields
        if name not in _CHANGEABLE and getattr(old.engine, name) != getattr(new.engine, name)
    }
    if not fixed:
        return new
    _log.warning("needs a restart, stays as it is", engine=sorted(fixed))
    return new.model_copy(update={"engine": new.engine.model_copy(update=fixed)})


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def run_service(
    config: ServiceConfig,
    *,
    config_path: Path | None = None,
    overrides: tuple[str, ...] = (),
    on_summary: Callable[[dict[str, Any]], None] | None = None,
    record: Path | None = None,
) -> int:
    """Run a service until its sources end or a signal comes; returns the exit code.

    Args:
        config: validated.
        config_path, overrides: where it came from, for reloads.
        on_summary: called with :meth:`Service.summary` at the end, in every case.
        record: file for a trace of what finishes.
    """

    async def main() -> int:
        reread = None if config_path is None else lambda: load_config(config_path, overrides)
        service = Service(config, reread)
        service.install_signals()
        recording = None if record is None else Recording(record, trace_header(config, tuple(config.sources)))
        if recording is not None:
            service.dispatcher.accounts.listeners.append(recording.take)
        try:
            return await service.run()
        finally:
            if recording is not None:
                recording.close()
            if on_summary is not None:
                on_summary(service.summary())

    return uvloop.run(main())
