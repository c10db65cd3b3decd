"""The union of all sinks: one import and one line each.

Until the first component is here the union is the base itself.
"""

from __future__ import annotations

from streamspec.core.component import SinkConfigBase

# Once there are two: SinkConfig = Annotated[AConfig | BConfig, Field(discriminator="type")]
SinkConfig = SinkConfigBase
