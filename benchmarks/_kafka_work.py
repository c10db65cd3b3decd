"""What the bare loop of :mod:`benchmarks.kafka` does to a record: the service's own stages, called directly."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

RULES = Path(__file__).parents[1] / "configs" / "rules" / "basic.yaml"
STAGES: list[dict[str, Any]] = [
    {"type": "inspect", "rules": str(RULES)},
    {"type": "compress", "codec": "zstd", "level": 9},
]


def captures() -> list[bytes]:
    """Pieces of 16 KiB of real captures where there are any, else of generated traffic."""
    folder = Path(os.environ.get("STREAMSPEC_CAPTURES", Path(__file__).parents[2] / "shared" / "pcaps"))
    found = [path.read_bytes()[: 4 << 20] for path in sorted(folder.glob("*.pcap*"))[:20]] if folder.is_dir() else []
    if not found:
        from loadgen.pool import scenario_pool
        from loadgen.scenario import load_scenario

        pool = scenario_pool(load_scenario("mixed"), marker_bytes=0, largest_bytes=1 << 20, lines=False)
        found = [pool.pool.memory.tobytes()]
    return [content[at : at + 16_384] for content in found for at in range(0, len(content) - 16_384, 16_384)]


class Work:
    """The stages on one record after the other."""

    def __init__(self) -> None:
        from pydantic import TypeAdapter

        from streamspec.core.interfaces import OpenableStage
        from streamspec.stages.registry import StageConfig

        self._stages = [TypeAdapter(StageConfig).validate_python(stage).build() for stage in STAGES]
        for stage in self._stages:
            if isinstance(stage, OpenableStage):
                stage.open()

    def __call__(self, value: bytes) -> bytes:
        """The result payload."""
        from streamspec.core.segment import PACKET
        from streamspec.testing.stages import RecordingContext, StageSegment

        raw = np.frombuffer(value, dtype=np.uint8)
        table = np.zeros(1, dtype=PACKET)
        table["captured_bytes"] = table["wire_bytes"] = len(value)
        segment = StageSegment(raw, table, memoryview(value))
        context = RecordingContext()
        for stage in self._stages:
            stage.process(segment, context)
        return bytes(segment.payload)
