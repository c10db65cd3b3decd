"""Stage ``inspect``: regular expressions over packets with Hyperscan, and an alert for each rule that matches.

A pattern never matches across two packets, and no Python runs for packets in which nothing matches: rules
that do not look at the surroundings of a match are first scanned over the whole stretch of memory that holds
the packets (each match inside a packet is also one there), and only packets in which such a match ends are
scanned on their own. Rules with ``^ $ \\b`` and the like are scanned packet by packet.

Counts ``alerts``, ``alerts_suppressed`` (beyond ``max_alerts_per_segment``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import Field, field_validator

from streamspec.core.component import StageConfigBase
from streamspec.core.errors import ConfigError
from streamspec.core.interfaces import Bytes, Segment, StageContext
from streamspec.core.paths import InputFile
from streamspec.stages.rules import Rule, read_rules

Ends = npt.NDArray[np.int64]
MAX_PREFILTER_MATCHES = 4096
"""Matches of one sweep after which every packet is scanned instead; bounds what hostile input can cost."""


class InspectConfig(StageConfigBase):
    """Look for patterns."""

    type: Literal["inspect"] = Field(description="Regular expressions by Hyperscan; emits records of type `alert`.")
    rules: tuple[InputFile, ...] = Field(min_length=1, description="Rules files; see `configs/rules/basic.yaml`.")
    scope: Literal["payload", "packet", "segment"] = Field(
        default="payload",
        description="What a match may span. `payload`: the transport payload of each packet when `decode` ran before, "
        "else each message; `packet`: each packet with its headers; `segment`: everything together.",
    )
    max_alerts_per_segment: int = Field(
        default=1000, ge=1, description="Alerts of one segment that are emitted (1 and up); the rest are counted."
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("rules")
    @classmethod
    def _can_be_read(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        for path in value:
            try:
                read_rules(path)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value

    def build(self) -> Inspect:
        """The stage."""
        return Inspect(self)


class Inspect:
    """Implements ``Stage`` and ``OpenableStage``."""

    def __init__(self, config: InspectConfig) -> None:
        self._config = config
        self._rules: dict[int, Rule] = {}
        self._free: Any = None
        self._bound: Any = None

    def open(self) -> None:
        """Compile the rules. Raises ConfigError with ``file:line`` for a pattern that cannot be compiled."""
        rules = [rule for path in self._config.rules for rule in read_rules(path)]
        self._rules = {rule.id: rule for rule in rules}
        if len(self._rules) < len(rules):
            raise ConfigError("two rules files use the same id", where="stages.inspect.rules")
        self._free = compile_rules([rule for rule in rules if not rule.bound_to_packet])
        self._bound = compile_rules([rule for rule in rules if rule.bound_to_packet])

    def process(self, segment: Segment, context: StageContext) -> None:
        """Emit the alerts of one segment."""
        starts, ends = self._spans(segment)
        memory = segment.original
        found: list[tuple[int, int, int, int]] = []
        if self._free is not None:
            for index in sweep(self._free, memory, starts, ends):
                found += _matches(self._free, memory, index, int(starts[index]), int(ends[index]))
        if self._bound is not None:
            for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
                found += _matches(self._bound, memory, index, start, end)
        if found:
            self._emit(segment, context, sorted(found))

    def _spans(self, segment: Segment) -> tuple[Ends, Ends]:
        decoded = segment.notes.get("decoded")
        whole = np.zeros(1, dtype=np.int64), np.array([len(segment.original)], dtype=np.int64)
        if self._config.scope == "segment":
            return whole
        if self._config.scope == "payload" and decoded is not None:
            starts = decoded["payload_offset"].astype(np.int64)
            return starts, starts + decoded["payload_bytes"]
        packets = segment.packets
        if not len(packets):
            return whole
        starts = packets["offset"].astype(np.int64)
        return starts, starts + packets["captured_bytes"]

    def _emit(self, segment: Segment, context: StageContext, found: list[tuple[int, int, int, int]]) -> None:
        limit = self._config.max_alerts_per_segment
        for index, rule, offset, matches in found[:limit]:
            context.emit("alert", orjson.dumps(self._alert(segment, index, rule, offset, matches)))
        context.count("alerts", min(len(found), limit))
        context.count("alerts_suppressed", max(len(found) - limit, 0))

    def _alert(self, segment: Segment, index: int, rule_id: int, offset: int, matches: int) -> dict[str, Any]:
        rule = self._rules[rule_id]
        timestamp_ns = int(segment.packets["timestamp_ns"][index]) if index < len(segment.packets) else 0
        alert: dict[str, Any] = {
            "record": "alert",
            "rule_id": rule.id,
            "name": rule.name,
            "severity": rule.severity,
            "segment_id": segment.segment_id,
            "key": segment.key.decode(errors="backslashreplace"),
            "timestamp_ns": timestamp_ns or segment.timestamp_ns,
            "packet": index,
            "match_end": offset,
            "matches": matches,
        }
        decoded = segment.notes.get("decoded")
        if decoded is not None and self._config.scope != "segment":
            alert |= _five_tuple(decoded[index])
        return alert


def compile_rules(rules: list[Rule]) -> Any:
    """A Hyperscan database in block mode, or None without rules."""
    if not rules:
        return None
    import hyperscan

    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    try:
        _compile_into(database, rules)
    except hyperscan.error as error:
        for rule in rules:
            try:
                _compile_into(hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK), [rule])
            except hyperscan.error as own:
                raise ConfigError(
                    f"the pattern of rule {rule.id} cannot be compiled: {own}", where=rule.place, value=rule.pattern
                ) from own
        raise ConfigError(f"the rules cannot be compiled together: {error}", where=rules[0].place) from error
    return database


def _compile_into(database: Any, rules: list[Rule]) -> None:
    import hyperscan

    database.compile(
        expressions=[rule.pattern.encode() for rule in rules],
        ids=[rule.id for rule in rules],
        elements=len(rules),
        # One alert per rule and packet is emitted anyway, and a sweep must see the match in every packet.
        flags=[
            sum(getattr(hyperscan, f"HS_FLAG_{flag.upper()}") for flag in rule.flags if flag != "singlematch")
            for rule in rules
        ],
    )


def sweep(database: Any, memory: Bytes, starts: Ends, ends: Ends) -> Iterable[int]:
    """Indices of spans that may hold a match: those in which a match over the whole stretch ends."""
    if not len(starts):
        return ()
    low, high = int(starts.min()), int(ends.max())
    hits: list[int] = []

    def note(rule: int, start: int, end: int, flags: int, context: object) -> bool:
        hits.append(end)
        return len(hits) >= MAX_PREFILTER_MATCHES

    _scan(database, memory[low:high], note)
    if not hits:
        return ()
    if len(hits) >= MAX_PREFILTER_MATCHES or len(starts) == 1:
        return range(len(starts))
    at = np.unique(np.array(hits, dtype=np.int64)) + low
    # A span (start, end] holds a hit when there are more hits up to its end than up to its start.
    held = np.searchsorted(at, ends, side="right") > np.searchsorted(at, starts, side="right")
    return np.flatnonzero(held).tolist()


def _matches(database: Any, memory: Bytes, index: int, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """``(index, rule, end of the first match, matches)`` in one span."""
    first: dict[int, list[int]] = {}

    def note(rule: int, begin: int, stop: int, flags: int, context: object) -> bool:
        entry = first.setdefault(rule, [stop, 0])
        entry[1] += 1
        return False

    _scan(database, memory[start:end], note)
    return [(index, rule, offset, count) for rule, (offset, count) in first.items()]


def _scan(database: Any, content: Bytes, note: Callable[..., bool]) -> None:
    import hyperscan

    try:
        database.scan(content, match_event_handler=note)
    except hyperscan.ScanTerminated:
        pass  # the handler has had enough


def _five_tuple(row: np.void) -> dict[str, Any]:
    if row["ip_version"] not in (4, 6):
        return {}
    family, size = (socket.AF_INET, 4) if row["ip_version"] == 4 else (socket.AF_INET6, 16)
    source, destination = row["source_address"].tobytes(), row["destination_address"].tobytes()
    return {
        "source_address": socket.inet_ntop(family, source[-size:]),
        "destination_address": socket.inet_ntop(family, destination[-size:]),
        "source_port": int(row["source_port"]),
        "destination_port": int(row["destination_port"]),
        "protocol": int(row["protocol"]),
    }
