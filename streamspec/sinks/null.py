"""Sink ``null``: takes everything and keeps nothing; for measurements, and for stages that act by themselves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamspec.core.component import SinkConfigBase
from streamspec.core.interfaces import DeliveryBatch
from streamspec.core.tally import Tally


class NullSinkConfig(SinkConfigBase):
    """Throw results away."""

    type: Literal["null"] = Field(description="Results are counted and thrown away.")

    def build(self, name: str) -> NullSink:
        """The sink."""
        return NullSink()


class NullSink:
    """Implements ``Sink``; does not look at what it is given."""

    async def open(self, tally: Tally) -> None:
        """Nothing to open."""
        self._tally = tally

    async def write(self, batch: DeliveryBatch) -> None:
        """Count the deliveries."""
        self._tally.add("deliveries", len(batch))

    async def close(self) -> None:
        """Nothing to close."""
