"""The union of all sources: one import and one line each."""

from __future__ import annotations

from streamspec.sources.tcp import TcpConfig

# Once there are two: SourceConfig = Annotated[AConfig | BConfig, Field(discriminator="type")]
SourceConfig = TcpConfig
