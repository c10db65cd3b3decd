"""The union of all stages: one import and one line each.

Until the first component is here the union is the base itself.
"""

from __future__ import annotations

from streamspec.core.component import StageConfigBase

# Once there are two: StageConfig = Annotated[AConfig | BConfig, Field(discriminator="type")]
StageConfig = StageConfigBase
