"""The union of all stages: one import and one line each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamspec.stages.compress import CompressConfig
from streamspec.stages.decode import DecodeConfig
from streamspec.stages.inspect import InspectConfig
from streamspec.stages.map import MapConfig
from streamspec.stages.meter import MeterConfig

StageConfig = Annotated[
    CompressConfig | DecodeConfig | InspectConfig | MapConfig | MeterConfig, Field(discriminator="type")
]
