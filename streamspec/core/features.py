"""The feature schema. Empty until the profiler exists; a stored model names the version it was trained for."""

from __future__ import annotations

FEATURE_SCHEMA_VERSION = 0
FEATURE_NAMES: tuple[str, ...] = ()
FEATURE_COUNT = len(FEATURE_NAMES)
