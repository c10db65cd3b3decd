"""Sink ``kafka``: results to topics, in batches, by an idempotent producer; at least or exactly once.

Key, timestamp and headers of records that came from Kafka are kept. As ``dead_letter`` it writes the payload as it
arrived, with the reason in the headers ``streamspec.error``, ``streamspec.source``, and for records from Kafka
``streamspec.topic``, ``streamspec.partition`` and ``streamspec.offset``.

With ``delivery: exactly_once`` each write is a transaction that holds results and the offsets of the records that
they came from (:mod:`streamspec.sinks.kafka_transactions`).

Counted in the tally: ``too_large_records`` (to ``oversize_topic``, or dropped), ``resent_batches``,
``new_producers``, ``aborted_transactions``, ``late_results`` (of partitions that have another owner by now).
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from streamspec.core.units import Bytes, Seconds
from streamspec.links.kafka_access import KafkaAccess
from streamspec.sinks.egress import Content, EgressConfig

if TYPE_CHECKING:
    from streamspec.sinks.kafka_writing import KafkaSink

KIB = 1024
MIB = 1024 * KIB
TEMPLATE_FIELDS = ("topic", "source", "type")


def _template(text: str) -> str:
    try:
        names = [name for _, name, *_ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from None
    unknown = [name for name in names if name not in TEMPLATE_FIELDS]
    if unknown:
        raise ValueError(f"unknown field {{{unknown[0]}}}; there are {', '.join(f'{{{n}}}' for n in TEMPLATE_FIELDS)}")
    return text


class KafkaSinkConfig(EgressConfig, KafkaAccess):
    """Write results to Kafka topics."""

    type: Literal["kafka"] = Field(description="Records of Kafka topics.")
    topic: Annotated[str, AfterValidator(_template)] = Field(
        min_length=1,
        max_length=249,
        description="Name of the topic. `{topic}` stands for the topic that a record came from, `{source}` for the "
        "source's name, `{type}` for the kind of record (`payload` for payloads).",
    )
    content: Content = Field(
        default="payload",
        description="`payload`: what the stages left of the payload, one record per message where it is unchanged; "
        "`records`: the JSON lines that stages emitted, one record each.",
    )
    delivery: Literal["at_least_once", "exactly_once"] = Field(
        default="at_least_once",
        description="`at_least_once`: after a crash some records may come twice; `exactly_once`: readers that leave "
        "out open transactions (`read_committed`) see each result once. It needs a `kafka` source on the same "
        "cluster, and to be the only sink.",
    )
    transactional_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=249,
        description="With `exactly_once`: name of this instance's transactions, one instance each (unset: a new one "
        "at each start). A fixed one is what ACLs can name.",
    )
    transaction_timeout: Seconds = Field(
        default=60.0,
        ge=1,
        le=900,
        description="Seconds after which the broker aborts a transaction of an instance that vanished (1 to 900). "
        "Readers wait that long for it.",
    )
    compression: Literal["none", "gzip", "lz4", "snappy", "zstd"] = Field(
        default="none", description="How batches are compressed on the way to the broker and in its log."
    )
    batch_bytes: Bytes = Field(
        default=256 * KIB,
        ge=1 * KIB,
        le=16 * MIB,
        description="Size of a batch of one partition (1 KiB to 16 MiB, below the broker's `message.max.bytes`). "
        "Larger batches cost less per record.",
    )
    linger: Seconds = Field(
        default=0.005,
        ge=0,
        le=1,
        description="Seconds that results wait for more of them before they are sent (0 to 1). A few milliseconds make "
        "fewer and larger requests, which saves processor time here and in the brokers; it adds to the latency.",
    )
    max_record_bytes: Bytes = Field(
        default=1_000_000,
        ge=100,
        le=1024 * MIB,
        description="Largest record that is sent, a little below the broker's `message.max.bytes`. A larger one goes "
        "to `oversize_topic`, and is counted as `too_large_records`.",
    )
    oversize_topic: str | None = Field(
        default=None,
        min_length=1,
        max_length=249,
        description="Topic for records that are too large: the first part of the value, the size in the header "
        "`streamspec.error`. Unset: they are dropped, counted and logged.",
    )

    @model_validator(mode="after")
    def _transactions_fit(self) -> KafkaSinkConfig:
        if self.transactional_id is not None and self.delivery != "exactly_once":
            raise ValueError("transactional_id is for delivery exactly_once")
        return self

    def build(self, name: str) -> KafkaSink:
        """The sink, not yet connected."""
        from streamspec.sinks.kafka_writing import KafkaSink

        return KafkaSink(name, self)
