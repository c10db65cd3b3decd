"""Deliveries on ordinary memory, for tests of sinks without an engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from streamspec.core.interfaces import Rows
from streamspec.core.segment import CONTENT_MESSAGES, PACKET


def _no_packets() -> Rows:
    return np.zeros(0, dtype=PACKET)


@dataclass
class ListDelivery:
    """Implements ``Delivery``; every field has a default."""

    segment_id: int = 1
    source: str = "source"
    key: bytes = b"key"
    meta: bytes = b""
    timestamp_ns: int = 0
    arrival_ns: int = 0
    length: int = 0
    content: int = CONTENT_MESSAGES
    link_type: int = 0
    error: str = ""
    payload: memoryview = field(default_factory=lambda: memoryview(b""))
    original: memoryview = field(default_factory=lambda: memoryview(b""))
    packets: Rows = field(default_factory=_no_packets)
    records: Sequence[tuple[str, memoryview]] = ()
    messages: Sequence[memoryview] = ()


class ListBatch:
    """Implements ``DeliveryBatch`` over a list."""

    def __init__(self, deliveries: Iterable[ListDelivery]) -> None:
        self.deliveries = list(deliveries)

    def __len__(self) -> int:
        return len(self.deliveries)

    def __iter__(self) -> Iterator[ListDelivery]:
        return iter(self.deliveries)


def make_delivery(messages: Sequence[bytes], **fields: Any) -> ListDelivery:
    """A delivery whose unchanged payload holds these messages (or packets), one behind the other."""
    raw = memoryview(b"".join(messages))
    table = np.zeros(len(messages), dtype=PACKET)
    sizes = np.array([len(m) for m in messages], dtype=np.uint32)
    table["captured_bytes"] = table["wire_bytes"] = sizes
    table["offset"][1:] = np.cumsum(sizes)[:-1]
    return ListDelivery(**{"payload": raw, "original": raw, "length": len(raw), "packets": table, **fields})
