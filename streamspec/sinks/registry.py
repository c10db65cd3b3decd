"""The union of all sinks: one import and one line each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamspec.sinks.jsonl import JsonlConfig
from streamspec.sinks.kafka import KafkaSinkConfig
from streamspec.sinks.null import NullSinkConfig
from streamspec.sinks.pcap import PcapSinkConfig
from streamspec.sinks.stdout import StdoutConfig
from streamspec.sinks.tcp import TcpSinkConfig
from streamspec.sinks.udp import UdpSinkConfig

SinkConfig = Annotated[
    JsonlConfig | KafkaSinkConfig | NullSinkConfig | PcapSinkConfig | StdoutConfig | TcpSinkConfig | UdpSinkConfig,
    Field(discriminator="type"),
]
