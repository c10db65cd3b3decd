"""Deliveries into batches of records by topic and partition, in order.

A batch is built by aiokafka's compiled builder; Python works about five microseconds per record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamspec.core.interfaces import Delivery
from streamspec.core.segment import CONTENT_MESSAGES
from streamspec.links import kafka_meta
from streamspec.sinks.frames import is_unchanged

if TYPE_CHECKING:
    from streamspec.sinks.kafka import KafkaSinkConfig

Headers = list[tuple[str, bytes | None]]

MILLISECOND_NS = 1_000_000
LARGEST_CACHE = 1 << 16
RECORD_OVERHEAD_BYTES = 96
"""At most, beside key, value and headers: lengths, deltas and the batch's own header."""
ROOM_BYTES = 65_536 + RECORD_OVERHEAD_BYTES
"""More than key and overhead of a record without headers can take: slots keep keys of up to 64 KiB."""
_NONE: Headers = []


Record = tuple[bytes | None, bytes | memoryview | None, int, Headers]
"""Key, value, timestamp in milliseconds, headers. A plain tuple: there may be a hundred thousand a second. Values are
views of the delivery, valid as long as it is written."""


def size_of(record: Record) -> int:
    """Bytes that it takes in a batch, at most."""
    key, value, _, headers = record
    named = sum(len(name) * 4 + len(value or b"") + 10 for name, value in headers) if headers else 0
    return len(key or b"") + len(value or b"") + named + RECORD_OVERHEAD_BYTES


@dataclass(slots=True)
class Outgoing:
    """A batch on its way, and its records in case it has to be built again."""

    topic: str
    partition: int
    builder: Any
    records: list[Record] = field(default_factory=list)


class Partitioner:
    """Which partition a key belongs to, as in Kafka's own clients; remembered, since murmur2 is slow in Python."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], int] = {}
        self._turn = 0

    def turn(self) -> None:
        """Records without a key go to the next partition from now on."""
        self._turn += 1

    def choose(self, key: bytes | None, partitions: int) -> int:
        """The partition of a key among so many."""
        if key is None:
            return self._turn % partitions
        place = (key, partitions)
        found = self._known.get(place)
        if found is None:
            from aiokafka.partitioner import murmur2

            if len(self._known) >= LARGEST_CACHE:
                self._known.clear()
            found = self._known[place] = (murmur2(key) & 0x7FFFFFFF) % partitions
        return found


class RecordBuilder:
    """Makes records of deliveries.

    Args:
        config: of the sink.
        too_large: takes records that no broker would; returns what is sent in their place.
    """

    def __init__(self, config: KafkaSinkConfig, too_large: Callable[[str, Record], tuple[str, Record] | None]) -> None:
        self._payload = config.content == "payload"
        self._template = config.topic
        self._fixed = config.topic if "{" not in config.topic else None
        self._limit = config.max_record_bytes
        self._too_large = too_large

    def records(self, deliveries: Iterable[Delivery]) -> Iterator[tuple[str, Record]]:
        """Topic and record of everything that the deliveries say, in order."""
        fixed = self._fixed if self._payload else None
        largest = self._limit - ROOM_BYTES
        for delivery in deliveries:
            meta = delivery.meta
            if fixed is not None and meta and kafka_meta.is_plain(meta) and not delivery.error:
                payload = delivery.payload
                if len(payload) <= largest:
                    yield fixed, (delivery.key, payload, delivery.timestamp_ns // MILLISECOND_NS, _NONE)
                    continue
            origin = kafka_meta.unpack(meta) if meta else None
            if delivery.error:
                made = self._letters(delivery, origin)
            elif self._payload:
                made = self._payloads(delivery, origin)
            else:
                made = self._lines(delivery, origin)
            for item in made:
                if size_of(item[1]) <= self._limit:
                    yield item
                elif (instead := self._too_large(*item)) is not None:
                    yield instead

    def _topic(self, delivery: Delivery, origin: kafka_meta.Origin | None, kind: str) -> str:
        if self._fixed is not None:
            return self._fixed
        came_from = origin.topic if origin is not None else delivery.source
        return self._template.format(topic=came_from, source=delivery.source, type=kind)

    def _payloads(self, delivery: Delivery, origin: kafka_meta.Origin | None) -> list[tuple[str, Record]]:
        payload = delivery.payload
        topic = self._topic(delivery, origin, "payload")
        key, headers, tombstone = _kept(delivery, origin)
        timestamp_ms = delivery.timestamp_ns // MILLISECOND_NS
        if origin is not None and origin.lone and not tombstone:
            return [(topic, (key, payload, timestamp_ms, headers))]
        if not len(payload):
            return [] if origin is None else [(topic, (key, None if tombstone else b"", timestamp_ms, headers))]
        packets = delivery.packets
        if messages := delivery.messages:
            moments = (packets["timestamp_ns"] // MILLISECOND_NS).tolist()
            return [(topic, (key, message, moment, headers)) for message, moment in zip(messages, moments, strict=True)]
        if len(packets) <= 1 or not is_unchanged(delivery):
            return [(topic, (key, payload, timestamp_ms, headers))]
        return [(topic, record) for record in _cut(payload, packets, key, headers)]

    def _lines(self, delivery: Delivery, origin: kafka_meta.Origin | None) -> list[tuple[str, Record]]:
        made: list[tuple[str, Record]] = []
        key, headers, _ = _kept(delivery, origin)
        timestamp_ms = delivery.timestamp_ns // MILLISECOND_NS
        for kind, lines in delivery.records:
            topic = self._topic(delivery, origin, kind)
            made += [(topic, (key, line, timestamp_ms, headers)) for line in bytes(lines).splitlines() if line]
        return made

    def _letters(self, delivery: Delivery, origin: kafka_meta.Origin | None) -> list[tuple[str, Record]]:
        topic = self._topic(delivery, origin, "payload")
        key, kept, _ = _kept(delivery, origin)
        headers = [
            *kept,
            ("streamspec.error", delivery.error.encode()),
            ("streamspec.source", delivery.source.encode()),
        ]
        if origin is not None:
            headers += [
                ("streamspec.topic", origin.topic.encode("utf-8", "surrogateescape")),
                ("streamspec.partition", b"%d" % origin.partition),
                ("streamspec.offset", b"%d" % origin.offset),
            ]
        packets = delivery.packets
        if delivery.content == CONTENT_MESSAGES and len(packets) > 1:
            return [(topic, record) for record in _cut(delivery.original, packets, key, headers)]
        return [(topic, (key, delivery.original, delivery.timestamp_ns // MILLISECOND_NS, headers))]


def _kept(delivery: Delivery, origin: kafka_meta.Origin | None) -> tuple[bytes | None, Headers, bool]:
    """Key and headers that are kept, and whether the record had no value."""
    if origin is None:
        return delivery.key or None, _NONE, False
    return (delivery.key if origin.has_key else None), origin.headers, not origin.has_value


def _cut(content: memoryview, packets: Any, key: bytes | None, headers: Headers) -> list[Record]:
    rows = zip(
        packets["offset"].tolist(), packets["captured_bytes"].tolist(), packets["timestamp_ns"].tolist(), strict=True
    )
    return [
        (key, content[start : start + size], timestamp_ns // MILLISECOND_NS, headers)
        for start, size, timestamp_ns in rows
    ]
