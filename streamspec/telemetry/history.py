"""One compact point per second of the last hour, kept as the JSON that is sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import orjson

from streamspec.telemetry.state import ServiceState

KEPT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Point:
    """What the charts show of one second.

    ``lanes``: by name ``[segments/s, bytes/s, latency p50, latency at the objective's percentile, queued segments,
    workers]``, times in seconds; ``content``: bytes per second by type; ``work``: seconds of work per second,
    predicted and measured, and the relative error.
    """

    at: float
    received_segments: float
    received_bytes: float
    lost: float
    lanes: dict[str, tuple[float, float, float | None, float | None, int, int]]
    content: dict[str, float]
    work: tuple[float | None, float, float | None]


def point_of(state: ServiceState) -> Point:
    """The point of a state."""
    rates = state.rates
    return Point(
        at=round(state.now_seconds, 1),
        received_segments=_short(rates.received_segments),
        received_bytes=_short(rates.received_bytes),
        lost=_short(rates.shed_segments + rates.dead_lettered_segments + rates.dropped_packets),
        lanes={
            lane.name: (
                _short(lane.segments_per_second),
                _short(lane.bytes_per_second),
                lane.latency_p50_seconds,
                lane.latency_high_seconds,
                lane.queued_segments,
                len(lane.workers),
            )
            for lane in state.lanes
        },
        content={share.type: _short(share.bytes_per_second) for share in state.content if share.bytes_per_second},
        work=(
            None if rates.predicted_seconds is None else _small(rates.predicted_seconds),
            _small(rates.measured_seconds),
            state.work_error_ratio,
        ),
    )


class History:
    """The last :data:`KEPT_SECONDS` points."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, bytes]] = deque(maxlen=KEPT_SECONDS)

    def add(self, state: ServiceState) -> bytes:
        """Keep the state's point; returns it encoded."""
        point = point_of(state)
        encoded = orjson.dumps(point, option=orjson.OPT_SERIALIZE_NUMPY)
        self._kept.append((point.at, encoded))
        return encoded

    def __len__(self) -> int:
        return len(self._kept)

    def encoded(self, limit: int = KEPT_SECONDS, before: float | None = None) -> bytes:
        """A JSON array of the newest ``limit`` points, the oldest first; with ``before`` those earlier than it."""
        found = [part for at, part in self._kept if before is None or at < before]
        return b"[" + b",".join(found[-limit:]) + b"]"


def _short(value: float) -> float:
    return round(value, 1)


def _small(value: float) -> float:
    return round(value, 6)
