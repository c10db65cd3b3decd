"""The union of all sources: one import and one line each.

Until the first component is here the union is the base itself.
"""

from __future__ import annotations

from streamspec.core.component import SourceConfigBase

# Once there are two: SourceConfig = Annotated[AConfig | BConfig, Field(discriminator="type")]
SourceConfig = SourceConfigBase
