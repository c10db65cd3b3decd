"""Results as JSON lines: the records of the stages as they are, and one line per segment."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import orjson
from pydantic import Field

from streamspec.core.component import SinkConfigBase
from streamspec.core.interfaces import Delivery, DeliveryBatch


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


def render(batch: DeliveryBatch, config: LinesConfig) -> bytes:
    """All lines of a batch, each ended by a newline; empty when there is nothing to write."""
    return b"".join(_lines(batch, config))


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


def timestamp_text(timestamp_ns: int) -> str:
    """``2026-11-24T08:27:33.000000001Z``; times that a calendar cannot hold are given in seconds."""
    seconds, fraction = divmod(timestamp_ns, 10**9)
    date_and_time, zone = _second_text(seconds)
    return f"{date_and_time}.{fraction:09d}{zone}"


@lru_cache(maxsize=4096)
def _second_text(seconds: int) -> tuple[str, str]:
    """Segments of one second share its text, which is the costly part."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}", "Z"
    except (ValueError, OverflowError, OSError):
        return str(seconds), ""
