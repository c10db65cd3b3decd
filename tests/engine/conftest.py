"""A dispatcher with real worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streamspec.core.errors import StreamspecError
from streamspec.core.resources import Allocation
from streamspec.core.segment import SlotLayout
from streamspec.engine.arena import Arena
from streamspec.engine.delivery import SinkRunner
from streamspec.engine.dispatcher import Dispatcher, LaneSpec
from streamspec.engine.fleet import ChainSpec
from streamspec.testing.components import ListSink, ListSource

LAYOUT = SlotLayout(payload_bytes=4096, packet_capacity=16, meta_bytes=256, output_bytes=8192)


class Bench:
    """A running dispatcher, its sinks and the errors that it reported."""

    def __init__(self, dispatcher: Dispatcher, sink: ListSink, dead: ListSink, errors: list[StreamspecError]) -> None:
        self.dispatcher = dispatcher
        self.sink = sink
        self.dead = dead
        self.errors = errors

    def open_source(self, source: ListSource, name: str = "list") -> asyncio.Task[None]:
        """Start reading a source."""
        intake = self.dispatcher.add_source(name, source)

        async def run() -> None:
            await source.open(intake)
            await source.run()

        return asyncio.create_task(run())

    async def feed(self, segments: Sequence[tuple[bytes, bytes]], **options: Any) -> ListSource:
        """Give all segments and wait until they are finished."""
        source = ListSource(segments, **options)
        await self.open_source(source)
        await self.dispatcher.drain()
        return source


@asynccontextmanager
async def running(
    *,
    lanes: Sequence[LaneSpec] = (LaneSpec("default", Allocation(workers=2, batch=4)),),
    workers: int = 2,
    slots: int = 64,
    factory: str = "streamspec.testing.chains:obedient",
    arena: Arena | None = None,
    stages: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> AsyncIterator[Bench]:
    """A dispatcher on a small arena, with one sink and one dead letter."""
    errors: list[StreamspecError] = []
    arena = arena or Arena(LAYOUT, slots)
    dispatcher = Dispatcher(arena, lanes, ChainSpec(factory, list(stages)), failed=errors.append, **options)
    delivery = dispatcher.delivery
    sink, dead = ListSink(), ListSink()
    delivery.sinks.append(SinkRunner("out", sink, delivery.view, delivery.written, errors.append))
    delivery.dead_letter = SinkRunner("dead", dead, delivery.view, delivery.written, errors.append)
    for runner in delivery.runners():
        await runner.open()
    try:
        async with asyncio.timeout(20):
            await dispatcher.start(workers)
        yield Bench(dispatcher, sink, dead, errors)
    finally:
        await dispatcher.close()
