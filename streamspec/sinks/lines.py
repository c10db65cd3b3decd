"""Results as JSON lines: the records of the stages as they are, and one line per segment."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any, Literal

import orjson
from pydantic import Field

from streamspec.core.component import SinkConfigBase
from streamspec.core.interfaces import Delivery, DeliveryBatch
from streamspec.core.timestamps import timestamp_text

BREATH_BYTES, BREATH_LINES = 1 << 18, 256
"""Lines made between two turns of the event loop: about a millisecond of work."""


class LinesConfig(SinkConfigBase):
    """What is written of a result."""

    write: Literal["records", "segments", "both"] = Field(
        default="both",
        description="`records`: the JSON lines that stages and reducers emit (flows, alerts); `segments`: one line per "
        "segment; `both`.",
    )
    types: tuple[str, ...] = Field(
        default=(), description="Record types written, such as `flow` and `alert`; empty means all."
    )
    payload: Literal["none", "text", "base64"] = Field(
        default="none",
        description="The result payload in segment lines: not at all, as text (UTF-8, what is not UTF-8 is replaced) "
        "or in base64 (complete). A dead letter carries the payload as it arrived.",
    )


async def render(batch: DeliveryBatch, config: LinesConfig) -> bytes | memoryview:
    """All lines of a batch, each ended by a newline; empty when there is nothing to write. A large batch is made
    in pieces, between which the event loop gets its turn. What needs no joining is passed on as it is, valid as
    long as the batch."""
    parts: list[bytes | memoryview] = []
    piece_bytes = piece_lines = 0
    for line in _lines(batch, config):
        parts.append(line)
        piece_bytes += len(line)
        piece_lines += 1
        if piece_bytes >= BREATH_BYTES or piece_lines >= BREATH_LINES:
            piece_bytes = piece_lines = 0
            await asyncio.sleep(0)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _lines(batch: DeliveryBatch, config: LinesConfig) -> Iterator[bytes | memoryview]:
    records, segments = config.write != "segments", config.write != "records"
    for delivery in batch:
        if records:
            for record_type, lines in delivery.records:
                if not config.types or record_type in config.types:
                    yield lines
        if delivery.segment_id and (segments or delivery.error):
            yield segment_line(delivery, config.payload)


def segment_line(delivery: Delivery, payload: str) -> bytes:
    """One line about a segment. Times are RFC 3339 in UTC with nanoseconds."""
    content: dict[str, Any] = {
        "record": "segment",
        "segment_id": delivery.segment_id,
        "source": delivery.source,
        "key": delivery.key.decode(errors="backslashreplace"),
        "timestamp": timestamp_text(delivery.timestamp_ns),
        "packets": len(delivery.packets),
        "length": delivery.length,
        "bytes_out": len(delivery.payload),
    }
    if delivery.error:
        content["error"] = delivery.error
    if payload != "none":
        body = bytes(delivery.original if delivery.error else delivery.payload)
        text = body.decode(errors="replace") if payload == "text" else base64.b64encode(body).decode()
        content["payload_encoding"] = payload
        content["payload"] = text
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
