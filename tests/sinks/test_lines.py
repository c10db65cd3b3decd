"""What is written of a result."""

from __future__ import annotations

import asyncio
import base64
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from streamspec.core.timestamps import timestamp_text
from streamspec.sinks import lines
from streamspec.sinks.lines import LinesConfig, render
from streamspec.testing.deliveries import ListBatch, ListDelivery, make_delivery

FLOW = ("flow", memoryview(b'{"flow":1}\n{"flow":2}\n'))
ALERT = ("alert", memoryview(b'{"alert":1}\n'))


async def _rendered(*deliveries: ListDelivery, **options) -> list[dict]:
    text = bytes(await render(ListBatch(deliveries), LinesConfig(**options)))
    assert not text or text.endswith(b"\n")
    return [json.loads(line) for line in text.splitlines()]


async def test_records_are_as_they_are_and_segments_have_their_facts() -> None:
    delivery = make_delivery(
        [b"one", b"two"],
        source="src",
        key=b"10.0.0.1:53",
        segment_id=7,
        timestamp_ns=1_600_000_000_000_000_001,
        records=[FLOW, ALERT],
    )
    *records, segment = await _rendered(delivery, payload="text")
    assert records == [{"flow": 1}, {"flow": 2}, {"alert": 1}]
    assert segment == {
        "record": "segment",
        "segment_id": 7,
        "source": "src",
        "key": "10.0.0.1:53",
        "timestamp": "2020-09-13T12:26:40.000000001Z",
        "packets": 2,
        "length": 6,
        "bytes_out": 6,
        "payload_encoding": "text",
        "payload": "onetwo",
    }


async def test_what_is_written_can_be_chosen() -> None:
    delivery = make_delivery([b"\xff\x00"], records=[FLOW, ALERT])
    assert await _rendered(delivery, write="records", types=("alert",)) == [{"alert": 1}]
    assert [line["record"] for line in await _rendered(delivery, write="segments")] == ["segment"]
    (line,) = await _rendered(delivery, write="segments", payload="base64")
    assert base64.b64decode(line["payload"]) == b"\xff\x00"
    assert await _rendered(delivery, write="records", types=("other",)) == []


async def test_a_dead_letter_carries_its_error_and_the_payload_as_it_arrived() -> None:
    letter = ListDelivery(error="stage x: it failed", original=memoryview(b"\xffarrived"), payload=memoryview(b"half"))
    (line,) = await _rendered(letter, write="records", payload="base64")
    assert line["error"] == "stage x: it failed"
    assert base64.b64decode(line["payload"]) == b"\xffarrived"


async def test_records_of_a_reducer_make_no_segment_line() -> None:
    assert await _rendered(ListDelivery(segment_id=0, records=[ALERT])) == [{"alert": 1}]


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(-(2**63), 2**63 - 1))
@settings(deadline=None, max_examples=100)
def test_any_key_and_payload_is_one_valid_line(key: bytes, payload: bytes, timestamp_ns: int) -> None:
    delivery = make_delivery([payload], key=key, timestamp_ns=timestamp_ns)
    for encoding in ("text", "base64"):
        (line,) = asyncio.run(_rendered(delivery, payload=encoding))
        assert line["length"] == len(payload)
    assert base64.b64decode(line["payload"]) == payload


async def test_others_get_their_turn_while_a_large_batch_is_made(monkeypatch) -> None:
    monkeypatch.setattr(lines, "BREATH_LINES", 10)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    assert len(await _rendered(*[make_delivery([b"x"])] * 100)) == 100
    task.cancel()
    assert turns >= 10


def test_times_beyond_the_calendar_are_given_in_seconds() -> None:
    assert timestamp_text(0) == "1970-01-01T00:00:00.000000000Z"
    assert timestamp_text(-1) == "1969-12-31T23:59:59.999999999Z"
    assert timestamp_text(2**63 - 1).startswith("2262-04-11T")
    assert timestamp_text(10**30) == f"{10**21}.000000000"
