"""The union of all sources: one import and one line each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamspec.sources.af_packet import AfPacketConfig
from streamspec.sources.kafka import KafkaConfig
from streamspec.sources.pcap import PcapConfig
from streamspec.sources.tcp import TcpConfig
from streamspec.sources.udp import UdpConfig

SourceConfig = Annotated[AfPacketConfig | KafkaConfig | PcapConfig | TcpConfig | UdpConfig, Field(discriminator="type")]
