"""One run of the demo: the service in this process, the generator beside it, and what both came to."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamspec.app import Service
from streamspec.config import ServiceConfig
from streamspec.core.address import join_address
from streamspec.core.prediction import Predictor
from streamspec.demo.display import Display
from streamspec.demo.generator import Generator
from streamspec.demo.measured import Measured

TICK_SECONDS = 0.1
SHOWN_EVERY = 3
SETTLE_SECONDS = 0.5
"""Nothing new for so long after the generator has ended: all that it sent is in."""
SETTLE_LIMIT_SECONDS = 10.0
LEARNER_SECONDS = 60.0
"""How long a run waits for the learner at most."""


@dataclass(frozen=True)
class Result:
    """Of one run: the exit code, whether a person ended it, the summary, and its segments."""

    code: int
    interrupted: bool
    summary: dict[str, Any]
    measured: Measured
    predictor: Predictor | None


class OneRun:
    """One run, inside the event loop.

    Args:
        config: of the service.
        source: name of the source that is sent to.
        seconds: how long traffic is generated.
        display: shows it; this run neither begins nor closes it.
    """

    def __init__(self, config: ServiceConfig, source: str, seconds: float, display: Display) -> None:
        self._config = config
        self._source = source
        self._seconds = seconds
        self._display = display
        self._generator: Generator | None = None
        self._interrupted: signal.Signals | None = None
        self._measured = Measured(config.objective.latency)

    async def run(self) -> Result:
        """Start, send, settle, drain."""
        service = Service(self._config)
        service.dispatcher.accounts.listeners.append(self._measured.take)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, service, number)
        serving = asyncio.ensure_future(service.run())
        report: Mapping[str, Any] = {}
        try:
            if await self._until_reading(service, serving) and await self._until_learning(service, serving):
                self._generator = Generator(self._target(service), self._seconds)
                report = await self._send(service, serving, self._generator)
        finally:
            foresight = service.dispatcher.foresight
            if not serving.done():
                service.stop()
            await asyncio.wait({serving})
        code = 128 + self._interrupted if self._interrupted else serving.result()
        summary = service.summary() | self._measured.told() | {"generator": dict(report)}
        summary["packets_dropped"] = max(report.get("messages", 0) - summary["packets_received"], 0)
        predictor = foresight.predictor if foresight is not None else None
        return Result(code, self._interrupted is not None, summary, self._measured, predictor)

    def _interrupt(self, service: Service, number: signal.Signals) -> None:
        """The first time the generator stops, and with it everything else in order; then the service at once."""
        if self._generator is None or self._interrupted:
            service.stop(number)
        else:
            self._generator.stop()
        self._interrupted = number

    async def _until_reading(self, service: Service, serving: asyncio.Future[int]) -> bool:
        """True once all sources read; False when the service ended before."""
        while not serving.done():
            sources = service.sources
            if len(sources) == len(self._config.sources) and all(source.task for source in sources.values()):
                return True
            await asyncio.wait({serving}, timeout=0.02)
        return False

    async def _until_learning(self, service: Service, serving: asyncio.Future[int]) -> bool:
        """The learner starts beside the stream, which does not wait for it. Both runs shall begin alike, though, and
        the first one of an installation not while it compiles. False when the service ended before."""
        learning = service.steering.learning if service.steering is not None else None
        if learning is None or not learning.client.config.enabled:
            return True
        ready = asyncio.ensure_future(learning.client.wait_ready())
        either: set[asyncio.Future[Any]] = {ready, serving}
        await asyncio.wait(either, timeout=LEARNER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)
        return not serving.done()

    async def _send(self, service: Service, serving: asyncio.Future[int], generator: Generator) -> Mapping[str, Any]:
        sending = asyncio.ensure_future(generator.run())
        both: set[asyncio.Future[Any]] = {sending, serving}
        turns, before = 0, time.monotonic()
        while not sending.done():
            if turns % SHOWN_EVERY == 0:
                self._display.show(service, generator.progress)
            turns += 1
            await asyncio.wait(both, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                generator.stop()
                await asyncio.wait({sending})
            before = self._count_workers(service, before)
        await self._until_settled(service, serving)
        self._count_workers(service, before)
        return sending.result()

    def _count_workers(self, service: Service, before: float) -> float:
        """From the first packet on."""
        now, dispatcher = time.monotonic(), service.dispatcher
        if dispatcher.accounts.received_packets:
            self._measured.worker_seconds += (now - before) * sum(len(lane.workers) for lane in dispatcher.lanes)
        return now

    async def _until_settled(self, service: Service, serving: asyncio.Future[int]) -> None:
        """Wait for what is still in the kernel's buffer or in an open segment."""
        seen, quiet_seconds, waited_seconds = -1, 0.0, 0.0
        while not serving.done() and quiet_seconds < SETTLE_SECONDS and waited_seconds < SETTLE_LIMIT_SECONDS:
            received = service.summary()["packets_received"]
            quiet_seconds = quiet_seconds + 0.1 if received == seen else 0.0
            seen = received
            waited_seconds += 0.1
            await asyncio.wait({serving}, timeout=0.1)

    def _target(self, service: Service) -> str:
        config: Any = self._config.sources[self._source]
        source: Any = service.sources[self._source].source
        address = join_address(*source.address[:2]).replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")
        framing = f"?framing={config.framing}" if config.type == "tcp" else ""
        return f"{config.type}://{address}{framing}"
