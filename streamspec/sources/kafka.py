"""Source ``kafka``: records of topics, shared with other instances through a consumer group.

At least once by default: a record's offset is committed after every sink has it. What finished out of order is
kept in the commit's metadata, so that a crash repeats little. Under backpressure partitions are paused; when the
group changes, what is under way is finished and committed before partitions are given away
(:mod:`streamspec.sources.kafka_group`).

Counted in the tally: ``unreadable_records`` (larger than a slot, or no packets where packets are expected; they go
to the dead letter), ``replay_skipped`` (finished before a restart), ``late_completions`` (finished after their
partition had another owner, who does them again), ``rebalances``, ``commits``, ``commit_failures``,
``expired_records`` (deleted by the broker before they were read), ``undecodable_metadata``, ``corrupt_records``,
``backpressure_pauses``, ``span_pauses``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from streamspec.core.component import SourceConfigBase
from streamspec.core.units import Bytes, Seconds
from streamspec.links.kafka_access import KafkaAccess

if TYPE_CHECKING:
    from streamspec.sources.kafka_reading import KafkaSource

KIB = 1024
MIB = 1024 * KIB
LINK_TYPES = {"ethernet": 1, "raw": 101, "ipv4": 228, "ipv6": 229, "linux_sll": 113, "linux_sll2": 276}

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def _topic(name: str) -> str:
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ValueError("not a name of a topic; letters, digits, dots, dashes and underscores, up to 249")
    return name


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


def _start(text: str) -> str:
    if text not in ("earliest", "latest"):
        start_milliseconds(text)
    return text


def start_milliseconds(text: str) -> int:
    """``"2026-01-31T12:00:00Z"`` -> milliseconds since 1970; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("write earliest, latest, or a time such as 2026-01-31T12:00:00Z") from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class KafkaConfig(SourceConfigBase, KafkaAccess):
    """Read records of Kafka topics."""

    type: Literal["kafka"] = Field(description="Records of Kafka topics, by a consumer group.")
    topics: tuple[Annotated[str, AfterValidator(_topic)], ...] = Field(default=(), description="Names of topics.")
    pattern: Annotated[str, AfterValidator(_pattern)] | None = Field(
        default=None,
        description="Instead of `topics`: a regular expression that names must match from their start on; topics made "
        "later are found as well.",
    )
    group: str = Field(
        min_length=1,
        max_length=249,
        description="Consumer group. Instances with the same group share the partitions between them.",
    )
    instance: str | None = Field(
        default=None,
        min_length=1,
        max_length=249,
        description="A name of this instance that stays over restarts (static membership): a restart within "
        "`session_timeout` moves no partitions. Unset: a restart counts as leaving and joining.",
    )
    start: Annotated[str, AfterValidator(_start)] = Field(
        default="earliest",
        description="Where a partition without a committed offset is read from: `earliest`, `latest`, or a time such "
        "as 2026-01-31T12:00:00Z.",
    )
    content: Literal["payload", "packets"] = Field(
        default="payload",
        description="What a value is. `payload`: one message; `packets`: link-layer packets, see `framing`.",
    )
    framing: Literal["single", "length", "capture"] = Field(
        default="single",
        description="How packets lie in a value. `single`: one packet; `length`: four bytes, big-endian, with the "
        "length before each; `capture`: a whole pcap or pcapng file.",
    )
    link_type: Literal["ethernet", "raw", "ipv4", "ipv6", "linux_sll", "linux_sll2"] = Field(
        default="ethernet", description="Link layer of packets with framing `single` and `length`."
    )
    gather_bytes: Bytes = Field(
        default=0,
        ge=0,
        le=256 * MIB,
        description="Payload up to which records of one key that were read together share a segment (0: each record "
        "is a segment; up to 256 MiB). It makes small records several times cheaper where stages look into records "
        "only. Of a stage that transforms, `unit` says whether it makes one result of the whole segment or one of each "
        "record (`compress`, `map`).",
    )
    latency_from: Literal["arrival", "production"] = Field(
        default="arrival",
        description="What a segment's latency counts from: its arrival in the service, or the record's timestamp, "
        "which includes the time in Kafka and the clocks of others.",
    )
    isolation: Literal["read_committed", "read_uncommitted"] = Field(
        default="read_committed", description="Whether records of open and aborted transactions are left out."
    )
    max_span: int = Field(
        default=100_000,
        ge=1,
        le=1 << 24,
        description="Records of one partition that may be read beyond the first unfinished one (1 to 16777216); then "
        "the partition is paused. It bounds what a crash can repeat, and takes a byte each.",
    )
    poll_records: int = Field(
        default=1024,
        ge=1,
        le=100_000,
        description="Most records handed in at a time (1 to 100000). More cost less each and hold the loop longer.",
    )
    fetch_bytes: Bytes = Field(
        default=1 * MIB,
        ge=1 * KIB,
        le=256 * MIB,
        description="Most bytes fetched ahead per partition (1 KiB to 256 MiB), which is memory beside the arena.",
    )
    fetch_wait: Seconds = Field(
        default=0.1,
        ge=0,
        le=30,
        description="Seconds that a broker holds back its answer when there is nothing new (0 to 30).",
    )
    commit_interval: Seconds = Field(
        default=1.0,
        ge=0.01,
        le=3600,
        description="Seconds between two commits of what is finished (0.01 to 3600). Shorter repeats less after a "
        "crash and costs the broker more.",
    )
    assignment: Literal["sticky", "range", "roundrobin"] = Field(
        default="sticky",
        description="How partitions are given out. `sticky` moves as few as possible; all instances of the group must "
        "agree.",
    )
    session_timeout: Seconds = Field(
        default=10.0,
        ge=1,
        le=3600,
        description="Seconds without a heartbeat after which an instance counts as dead (1 to 3600, within what the "
        "brokers allow).",
    )
    drain_timeout: Seconds = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds that segments under way have to finish when the group changes (0 to 3600). What does not "
        "is repeated by the partition's next owner.",
    )

    @field_validator("topics", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _what_to_read(self) -> KafkaConfig:
        if bool(self.topics) == (self.pattern is not None):
            raise ValueError("give either topics or pattern")
        if self.content == "packets" and self.gather_bytes:
            raise ValueError("gather_bytes is for content payload; packets of one record are one segment already")
        return self

    def build(self, name: str) -> KafkaSource:
        """The source, not yet connected."""
        from streamspec.sources.kafka_reading import KafkaSource

        return KafkaSource(name, self)
