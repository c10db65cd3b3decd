"""``run --record``: finished segments into a trace that ``streamspec replay`` reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.interfaces import Rows
from streamspec.core.prediction import variant_stage
from streamspec.telemetry.trace import TraceHeader, TraceWriter

if TYPE_CHECKING:
    from streamspec.config import ServiceConfig

_log = structlog.get_logger("streamspec.recording")


def trace_header(config: ServiceConfig, source_names: Sequence[str]) -> TraceHeader:
    """What a trace of this service says of itself."""
    stage = variant_stage(config.stages)
    return TraceHeader(
        stages=tuple(stage.model_dump(include={"type"})["type"] for stage in config.stages),
        variants=config.stages[stage].cost_keys if stage >= 0 else (),
        variable_stage=stage,
        default_variant=config.stages[stage].default_variant if stage >= 0 else 0,
        latency_seconds=config.objective.latency,
        percentile=config.objective.percentile,
        cores=len(os.sched_getaffinity(0)),
        workers=config.fleet_workers,
        sources=tuple(source_names),
        ordered=config.engine.order == "key",
    )


class Recording:
    """A listener of the accounts. A disk that refuses ends the recording, not the stream.

    Raises:
        DependencyUnavailable: the file cannot be made.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        self._path = path
        self._writer: TraceWriter | None = TraceWriter(path, header)

    def take(self, outcomes: Rows) -> None:
        """Keep finished segments."""
        if self._writer is None:
            return
        try:
            self._writer.append(outcomes)
        except DependencyUnavailable as error:
            _log.error("recording ended", reason=str(error))
            self.close()

    def close(self) -> None:
        """Write what is buffered. Safe to call twice."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        try:
            writer.close()
            _log.info("recorded", path=str(self._path), segments=writer.rows)
        except DependencyUnavailable as error:
            _log.error("the end of the recording is lost", reason=str(error))
