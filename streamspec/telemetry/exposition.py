"""The metrics as Prometheus reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from streamspec.telemetry.metrics import METRICS, PREFIX, Metric, Reading
from streamspec.telemetry.state import Histogram, StateReader

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


class StateCollector:
    """Gives a registry of ``prometheus_client`` what a reader sees, at each scrape.

    Args:
        reader: of the running service.
    """

    def __init__(self, reader: StateReader) -> None:
        self._reader = reader

    def collect(self) -> Iterator[Family]:
        """Implements ``prometheus_client.registry.Collector``."""
        reading = Reading(self._reader.read(), self._reader.histograms())
        return (_family(metric, reading) for metric in METRICS)


def _family(metric: Metric, reading: Reading) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    name = PREFIX + metric.name
    if metric.kind == "histogram":
        histograms = HistogramMetricFamily(name, metric.help, labels=metric.labels)
        for labels, value in metric.read(reading):
            if isinstance(value, Histogram):
                buckets = [(repr(edge), float(count)) for edge, count in value.edges]
                histograms.add_metric(labels, [*buckets, ("+Inf", float(value.count))], value.sum_seconds)
        return histograms
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(name, metric.help, labels=metric.labels)
    for labels, value in metric.read(reading):
        if not isinstance(value, Histogram):
            family.add_metric(labels, float(value))
    return family


class _Families:
    """A registry that holds a single family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterator[Family]:
        yield self._family


class Exposition:
    """The text of a scrape, made one family at a time, so that segments never wait for the whole of it.

    Args:
        reader: of the running service.
    """

    def __init__(self, reader: StateReader) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.process_collector import ProcessCollector

        self.registry = CollectorRegistry()
        self.registry.register(StateCollector(reader))
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self.registry)

    async def render(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        from prometheus_client import generate_latest

        parts = []
        for family in self.registry.collect():
            parts.append(generate_latest(_Families(family)))
            await asyncio.sleep(0)
        return b"".join(parts)
