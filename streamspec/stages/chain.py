"""The factory that worker processes call: stage configurations in, a chain of stages out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from streamspec.core.interfaces import Stage
from streamspec.stages.registry import StageConfig

FACTORY = "streamspec.stages.chain:build_chain"


def stage_names(types: Sequence[str]) -> list[str]:
    """The type of each stage, numbered where a type occurs more than once: ``map, map_2``."""
    seen: dict[str, int] = {}
    names = []
    for name in types:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def build_chain(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """Stages in order, with their names. ``stages`` is what ``model_dump(mode="json")`` gave."""
    adapter: TypeAdapter[Any] = TypeAdapter(StageConfig)
    configs = [adapter.validate_python(stage) for stage in stages]
    return list(
        zip(stage_names([config.type for config in configs]), [config.build() for config in configs], strict=True)
    )
