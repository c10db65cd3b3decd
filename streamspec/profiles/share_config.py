"""Configuration of what instances tell each other about what they learned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamspec.core.units import Seconds
from streamspec.links.kafka_access import KafkaAccess


class ShareConfig(KafkaAccess):
    """Learned models travel between instances over a compacted topic.

    All instances need the same key (``profiles.key`` or its environment variables): what another key signed is
    refused.
    """

    type: Literal["kafka"] = Field(description="Over what: `kafka`, a compacted topic.")
    topic: str = Field(
        default="streamspec-profiles",
        min_length=1,
        max_length=249,
        description="Name of the topic; made with one compacted partition when it does not exist and this user may.",
    )
    instance: str | None = Field(
        default=None,
        min_length=1,
        max_length=249,
        description="Name of this instance, the same after a restart; unset: the host's name. Of two with one name in "
        "one `profiles.state`, the topic keeps what the later one said.",
    )
    interval: Seconds = Field(
        default=30.0,
        ge=1.0,
        le=3600.0,
        description="How often this instance tells what it learned, if it learned something (1 s to 1 h); also at "
        "exit. Shorter costs more of the network: a few hundred kilobytes each time.",
    )
    connect_timeout: Seconds = Field(
        default=5.0,
        ge=0,
        le=60,
        description="Seconds that the start of the stream waits for what others have learned (0 to 60). Then it "
        "starts, and what comes later is taken over then. A broker that is away never stops the stream.",
    )
