"""Sinks as the engine runs them: one, or a copy per traffic class where the way out is shared out among classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from streamspec.core.component import SinkConfigBase
from streamspec.core.errors import StreamspecError
from streamspec.core.interfaces import Sink
from streamspec.engine.delivery import SinkRunner
from streamspec.engine.traffic_sinks import TrafficSinkRunner
from streamspec.sinks.egress import EgressConfig

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig
    from streamspec.engine.dispatcher import Dispatcher


def copies_of(service: ServiceConfig, sink: SinkConfigBase) -> int:
    """Copies of one sink. One that has a limit of its own stays whole: copies would have it each."""
    classes = len(service.effective_lanes)
    if service.control.egress is None or not isinstance(sink, EgressConfig) or sink.bytes_per_second is not None:
        return 1
    return classes


def build_runner(
    name: str, sinks: Sequence[Sink], dispatcher: Dispatcher, failed: Callable[[StreamspecError], None]
) -> SinkRunner:
    """A runner of all copies of one sink, not yet opened."""
    delivery = dispatcher.delivery
    if len(sinks) == 1:
        return SinkRunner(name, sinks[0], delivery.view, delivery.written, failed)
    return TrafficSinkRunner(name, sinks, delivery.view, delivery.written, failed, dispatcher.traffic_of_lanes)
