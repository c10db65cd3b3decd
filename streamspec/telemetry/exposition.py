"""The metrics as Prometheus reads them.

The lines are written here rather than by ``prometheus_client``: that takes four times as long, and segments wait
meanwhile. Its registry serves what it knows best, the process.
"""

from __future__ import annotations

import asyncio
import math

from streamspec.telemetry.metrics import METRICS, PREFIX, Labels, Metric, Reading
from streamspec.telemetry.state import Histogram, StateReader

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Exposition:
    """The text of a scrape, made one metric at a time, so that segments never wait for the whole of it.

    Args:
        reader: of the running service.
    """

    def __init__(self, reader: StateReader) -> None:
        from prometheus_client import CollectorRegistry
        from prometheus_client.process_collector import ProcessCollector

        self._reader = reader
        self._process = CollectorRegistry()
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._process)

    async def render(self) -> bytes:
        """Prometheus text format, version 0.0.4."""
        from prometheus_client import generate_latest

        reading = Reading(self._reader.read(), self._reader.histograms())
        parts = []
        for metric in METRICS:
            await asyncio.sleep(0)
            parts.append(metric_text(metric, reading))
        return "".join(parts).encode() + generate_latest(self._process)


def metric_text(metric: Metric, reading: Reading) -> str:
    """The lines of one metric."""
    name = metric.full_name
    lines = [f"# HELP {name} {metric.help}\n# TYPE {name} {metric.kind}\n"]
    for values, value in metric.read(reading):
        labels = _labels(metric.labels, values)
        if isinstance(value, Histogram):
            lines.append(_histogram_text(name, labels, value))
        else:
            lines.append(f"{name}{{{labels}}} {_number(value)}\n" if labels else f"{name} {_number(value)}\n")
    return "".join(lines)


def _histogram_text(name: str, labels: str, histogram: Histogram) -> str:
    start = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
    lines = [f'{start}{edge!r}"}} {count}\n' for edge, count in histogram.edges]
    braced = f"{{{labels}}}" if labels else ""
    lines.append(f'{start}+Inf"}} {histogram.count}\n')
    lines.append(f"{name}_sum{braced} {_number(histogram.sum_seconds)}\n{name}_count{braced} {histogram.count}\n")
    return "".join(lines)


def _labels(names: Labels, values: Labels) -> str:
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(names, values, strict=True))


def _number(value: float) -> str:
    number = float(value)
    if math.isfinite(number):
        return repr(number)
    return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
