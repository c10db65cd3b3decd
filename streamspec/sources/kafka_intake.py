"""Records of Kafka into segments: copied once into slots, with key, origin and one packet row each.

Python works a microsecond or two per record here: what can be done for a whole poll at once (slots, header
columns) is. A record becomes one segment; with ``gather_bytes``, records of one key in one poll share one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from streamspec.core.interfaces import Intake, Slots
from streamspec.core.segment import CONTENT_MESSAGES, PACKET
from streamspec.links import kafka_meta
from streamspec.sources.kafka_offsets import PartitionOffsets

_ROW = struct.Struct("<qIIII")
assert _ROW.size == PACKET.itemsize
MILLISECOND_NS = 1_000_000


@dataclass(eq=False)
class Partition:
    """One partition while we own it.

    Attributes:
        offsets: which are finished.
        lost: it has another owner now; what finishes late changes nothing.
        unfinished: segments under way.
        oldest: token and production time (nanoseconds since 1970) of segments under way, oldest first.
        dirty: something finished that is in no commit yet.
    """

    topic: str
    number: int
    offsets: PartitionOffsets
    lost: bool = False
    unfinished: int = 0
    dirty: bool = False
    key_if_none: bytes = b""
    topic_bytes: bytes = b""
    oldest: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topic_bytes = self.topic.encode("utf-8", "surrogateescape")
        self.key_if_none = b"%s:%d" % (self.topic_bytes, self.number)


@dataclass(slots=True)
class Unit:
    """What one token stands for: offsets of a partition, and segments that must finish until they are."""

    partition: Partition
    offsets: Sequence[int]
    produced_ns: int
    segments: int = 1


@dataclass(slots=True)
class Draft:
    """A segment to be: records of one key."""

    key: bytes
    records: list[Any]
    headers: bytes
    size: int


class Units:
    """Tokens of segments under way."""

    def __init__(self) -> None:
        self.under_way: dict[int, Unit] = {}
        self._next = 1

    def begin(self, partition: Partition, offsets: Sequence[int], produced_ns: int, segments: int = 1) -> int:
        """A new token."""
        token = self._next
        self._next += 1
        self.under_way[token] = Unit(partition, offsets, produced_ns, segments)
        partition.unfinished += 1
        partition.oldest[token] = produced_ns
        return token

    def end(self, token: int) -> Unit | None:
        """One segment of the token is finished; the unit when it was the last one."""
        unit = self.under_way[token]
        unit.segments -= 1
        if unit.segments:
            return None
        del self.under_way[token]
        unit.partition.unfinished -= 1
        del unit.partition.oldest[token]
        return unit


class MessageIntake:
    """Records as messages.

    Args:
        intake: of the engine.
        units: where tokens come from.
        gather_bytes: payload up to which records of one key share a segment; 0 gives each its own.
        from_production: latency counts from the record's timestamp instead of its arrival here.
    """

    content = CONTENT_MESSAGES

    def __init__(self, intake: Intake, units: Units, *, gather_bytes: int, from_production: bool) -> None:
        self._intake = intake
        self._units = units
        self._gather_bytes = min(gather_bytes, intake.layout.payload_bytes)
        self._from_production = from_production
        self._view = intake.memory.data.cast("B")
        self._first = intake.offset(0)
        self._stride = intake.layout.stride
        self._largest = intake.layout.payload_bytes
        self._table_at = intake.layout.packets_offset

    def take(self, partition: Partition, records: Sequence[Any]) -> int:
        """Hand in as many of the records as there are slots for; returns how many were taken (those that an
        earlier owner finished count as taken)."""
        drafts, taken = self._drafts(partition, records)
        slots = self._intake.acquire_many(len(drafts))
        if len(slots) < len(drafts):
            taken = self._put_back(drafts, len(slots), records)
            drafts = drafts[: len(slots)]
        if drafts:
            self._fill(partition, drafts, slots)
        if taken:
            partition.offsets.pass_over(records[taken - 1].offset + 1)
        return taken

    # -- drafts -------------------------------------------------------------------------------
    def _drafts(self, partition: Partition, records: Sequence[Any]) -> tuple[list[Draft], int]:
        restoring = partition.offsets.restoring
        wanted = [r for r in records if not restoring or not partition.offsets.is_finished(r.offset)]
        if restoring:
            self._intake.tally.add("replay_skipped", len(records) - len(wanted))
        if not self._gather_bytes:
            none = partition.key_if_none
            drafts = [
                Draft(
                    none if r.key is None else r.key,
                    [r],
                    kafka_meta.pack_headers(r.headers) if r.headers else b"",
                    0 if r.value is None else len(r.value),
                )
                for r in wanted
            ]
            return drafts, len(records)
        return self._gathered(partition, wanted), len(records)

    def _gathered(self, partition: Partition, records: Sequence[Any]) -> list[Draft]:
        drafts: list[Draft] = []
        open_drafts: dict[bytes | None, Draft] = {}
        capacity = self._intake.layout.packet_capacity
        for record in records:
            size = 0 if record.value is None else len(record.value)
            draft = open_drafts.get(record.key)
            alone = bool(record.headers) or record.value is None
            if draft is not None and not alone and draft.size + size <= self._gather_bytes:
                draft.records.append(record)
                draft.size += size
                if len(draft.records) == capacity:
                    del open_drafts[record.key]
                continue
            key = partition.key_if_none if record.key is None else record.key
            headers = kafka_meta.pack_headers(record.headers) if record.headers else b""
            draft = Draft(key, [record], headers, size)
            drafts.append(draft)
            if alone:
                open_drafts.pop(record.key, None)
            else:
                open_drafts[record.key] = draft
        return drafts

    def _put_back(self, drafts: list[Draft], fitting: int, records: Sequence[Any]) -> int:
        """Only the first drafts have slots: records from the first one without a slot on are not taken. Drafts
        that hold records behind it lose them."""
        first = drafts[fitting].records[0].offset
        for draft in drafts[:fitting]:
            while draft.records[-1].offset > first:
                draft.size -= len(draft.records.pop().value or b"")
        return next(index for index, record in enumerate(records) if record.offset == first)

    # -- slots --------------------------------------------------------------------------------
    def _fill(self, partition: Partition, drafts: list[Draft], slots: Slots) -> None:
        intake, units = self._intake, self._units
        partition.offsets.take_all(sorted([record.offset for draft in drafts for record in draft.records]))
        tokens = np.empty(len(drafts), dtype=np.uint64)
        columns = np.empty((6, len(drafts)), dtype=np.int64)
        hashes = np.empty(len(drafts), dtype=np.uint64)
        meta_room, meta_at = intake.layout.meta_bytes, intake.layout.meta_offset
        faults: dict[int, str] = {}
        for index, (slot, draft) in enumerate(zip(slots.tolist(), drafts, strict=True)):
            first = draft.records[0]
            produced_ns = first.timestamp * MILLISECOND_NS
            token = units.begin(partition, [r.offset for r in draft.records], produced_ns)
            meta = kafka_meta.pack(
                partition.topic_bytes,
                partition.number,
                first.offset,
                token,
                has_key=first.key is not None,
                has_value=first.value is not None,
                headers=draft.headers,
            )
            if len(draft.key) + len(meta) > meta_room:
                faults[slot] = _too_long(draft, meta, meta_room)
                meta = meta[: len(meta) - len(draft.headers)]
            key = draft.key[: meta_room - len(meta)]
            at = self._first + slot * self._stride
            size, rows, link_type, fault = self._copy(slot, at, draft)
            if fault:
                faults[slot] = fault
            position = at + meta_at
            self._view[position : position + len(key) + len(meta)] = key + meta
            tokens[index] = token
            hashes[index] = xxhash.xxh3_64_intdigest(key)
            columns[:, index] = (produced_ns, size, rows, len(key), len(meta), link_type)
        self._write_headers(slots, tokens, hashes, columns)
        self._hand_in(slots, faults)

    def _copy(self, slot: int, at: int, draft: Draft) -> tuple[int, int, int, str]:
        """Values one behind the other, and their rows; returns bytes, rows, link type, and what is wrong."""
        view, table, largest = self._view, at + self._table_at, self._largest
        position, fault = 0, ""
        for record in draft.records:
            value = record.value or b""
            size = len(value)
            if size > largest:
                fault = f"the record has {size} bytes, more than engine.max_packet_bytes ({largest})"
                value, size = value[:largest], largest
            view[at + position : at + position + size] = value
            _ROW.pack_into(view, table, record.timestamp * MILLISECOND_NS, position, size, size, 0)
            table += _ROW.size
            position += size
        return position, len(draft.records), 0, fault

    def _write_headers(self, slots: Slots, tokens: Any, hashes: Any, columns: Any) -> None:
        headers = self._intake.headers
        clock = self._intake.clock
        now_ns = clock.monotonic_ns()
        headers["token"][slots] = tokens
        headers["key_hash"][slots] = hashes
        headers["timestamp_ns"][slots] = columns[0]
        headers["length"][slots] = columns[1]
        headers["packets"][slots] = columns[2]
        headers["key_bytes"][slots] = columns[3]
        headers["meta_bytes"][slots] = columns[4]
        headers["link_type"][slots] = columns[5]
        headers["content"][slots] = self.content
        if self._from_production:
            age_ns = np.maximum(clock.time_ns() - columns[0], 0)
            headers["arrival_ns"][slots] = np.maximum(now_ns - age_ns, 0)
        else:
            headers["arrival_ns"][slots] = now_ns

    def _hand_in(self, slots: Slots, faults: dict[int, str]) -> None:
        if not faults:
            self._intake.commit(slots)
            return
        for slot in slots.tolist():
            if slot in faults:
                self._intake.tally.add("unreadable_records")
                self._intake.reject(slot, faults[slot])
            else:
                self._intake.commit([slot])


def _too_long(draft: Draft, meta: bytes, room: int) -> str:
    needed = len(draft.key) + len(meta)
    return f"key and headers of the record need {needed} bytes, more than engine.meta_bytes ({room})"
