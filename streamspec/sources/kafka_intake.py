"""Records of Kafka into segments: copied once into slots, with key, origin and one packet row each.

Python works a microsecond or two per record here: what can be done for a whole poll at once (slots, header
columns) is. A record becomes one segment; with ``gather_bytes``, records of one key in one poll share one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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

    def __post_init__(self) -> None:
        self.topic_bytes = self.topic.encode("utf-8", "surrogateescape")
        self.key_if_none = b"%s:%d" % (self.topic_bytes, self.number)


class Unit(NamedTuple):
    """What one token stands for: offsets of a partition, empty once they are committed."""

    partition: Partition
    offsets: Sequence[int]
    produced_ns: int


Group = Sequence[Any]
"""Records of one key that share a segment."""


class Units:
    """Segments under way, by token."""

    def __init__(self) -> None:
        self.under_way: dict[int, Unit] = {}
        self.next_token = 1

    def end(self, token: int) -> Unit:
        """The segment is finished."""
        unit = self.under_way.pop(token)
        unit.partition.unfinished -= 1
        return unit

    def oldest_ns(self) -> dict[int, int]:
        """When the oldest record under way was produced, by ``id`` of its partition."""
        oldest: dict[int, int] = {}
        for partition, _, produced_ns in self.under_way.values():
            place = id(partition)
            if produced_ns < oldest.get(place, produced_ns + 1):
                oldest[place] = produced_ns
        return oldest


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
        wanted, taken = records, len(records)
        if partition.offsets.restoring:
            wanted = [r for r in records if not partition.offsets.is_finished(r.offset)]
            self._intake.tally.add("replay_skipped", taken - len(wanted))
        groups = self._gathered(wanted) if self._gather_bytes else [(r,) for r in wanted]
        slots = self._intake.acquire_many(len(groups))
        if len(slots) < len(groups):
            groups, taken = _fitting(groups, len(slots), records)
        if groups:
            partition.offsets.take_all(_offsets(groups))
            self._fill(partition, groups, slots)
        if taken:
            partition.offsets.pass_over(records[taken - 1].offset + 1)
        return taken

    def _gathered(self, records: Sequence[Any]) -> list[Group]:
        """Records of one key together, as long as they have no headers, in order of their first ones."""
        groups: list[Group] = []
        open_groups: dict[bytes | None, tuple[list[Any], int]] = {}
        capacity = self._intake.layout.packet_capacity
        for record in records:
            if record.headers or record.value is None:
                open_groups.pop(record.key, None)
                groups.append((record,))
                continue
            size = len(record.value)
            group, filled = open_groups.get(record.key, (None, 0))
            if group is None or filled + size > self._gather_bytes or len(group) == capacity:
                group, filled = [], 0
                groups.append(group)
            group.append(record)
            open_groups[record.key] = (group, filled + size)
        return groups

    # -- slots --------------------------------------------------------------------------------
    def _fill(self, partition: Partition, groups: Sequence[Group], slots: Slots) -> None:
        intake, units, view = self._intake, self._units, self._view
        meta_room, meta_at = intake.layout.meta_bytes, intake.layout.meta_offset
        first_token = token = units.next_token
        under_way, hash_of = units.under_way, xxhash.xxh3_64_intdigest
        hashes: list[int] = []
        columns: list[tuple[int, ...]] = []
        faults: dict[int, str] = {}
        for slot, group in zip(slots.tolist(), groups, strict=True):
            record = group[0]
            produced_ns = record.timestamp * MILLISECOND_NS
            offsets = (record.offset,) if len(group) == 1 else [r.offset for r in group]
            under_way[token] = Unit(partition, offsets, produced_ns)
            key = partition.key_if_none if record.key is None else record.key
            meta = kafka_meta.pack(partition.topic_bytes, partition.number, token, record, lone=len(group) == 1)
            if len(key) + len(meta) > meta_room:
                faults[slot] = _too_long(len(key) + len(meta), meta_room)
                meta = kafka_meta.without_headers(meta)
                key = key[: meta_room - len(meta)]
            at = self._first + slot * self._stride
            size, rows, link_type, fault = self._copy(slot, at, group)
            if fault:
                faults[slot] = fault
            position = at + meta_at
            view[position : position + len(key) + len(meta)] = key + meta
            hashes.append(hash_of(key))
            columns.append((produced_ns, size, rows, len(key), len(meta), link_type))
            token += 1
        units.next_token = token
        partition.unfinished += len(groups)
        tokens = np.arange(first_token, token, dtype=np.uint64)
        self._write_headers(slots, tokens, np.array(hashes, dtype=np.uint64), np.array(columns, dtype=np.int64).T)
        self._hand_in(slots, faults)

    def _copy(self, slot: int, at: int, group: Group) -> tuple[int, int, int, str]:
        """Values one behind the other, and their rows; returns bytes, rows, link type, and what is wrong."""
        view, table, largest = self._view, at + self._table_at, self._largest
        position, fault = 0, ""
        for record in group:
            value = record.value or b""
            size = len(value)
            if size > largest:
                fault = f"the record has {size} bytes, more than engine.max_packet_bytes ({largest})"
                value, size = value[:largest], largest
            view[at + position : at + position + size] = value
            _ROW.pack_into(view, table, record.timestamp * MILLISECOND_NS, position, size, size, 0)
            table += _ROW.size
            position += size
        return position, len(group), 0, fault

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


def _offsets(groups: Sequence[Group]) -> list[int]:
    return sorted([record.offset for group in groups for record in group])


def _fitting(groups: Sequence[Group], slots: int, records: Sequence[Any]) -> tuple[list[Group], int]:
    """The groups that have slots, and how many records that takes: all before the first one without a slot.
    Groups that hold records behind it lose them."""
    first = groups[slots][0].offset
    fitting: list[Group] = [[r for r in group if r.offset < first] for group in groups[:slots]]
    return fitting, next(index for index, record in enumerate(records) if record.offset == first)


def _too_long(needed: int, room: int) -> str:
    return f"key and headers of the record need {needed} bytes, more than engine.meta_bytes ({room})"
