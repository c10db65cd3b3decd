"""The sink against a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamspec.core.interfaces import OffsetCommit, Source
from streamspec.core.segment import CONTENT_PACKETS
from streamspec.core.tally import Tally
from streamspec.links import kafka_meta
from streamspec.sinks.kafka import KafkaSinkConfig
from streamspec.sinks.kafka_writing import KafkaSink
from streamspec.testing.deliveries import ListBatch, make_delivery
from tests.kafka.clients import consume
from tests.kafka.conftest import MakeTopic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@asynccontextmanager
async def writing(address: str, topic: str, **fields: Any) -> AsyncIterator[tuple[KafkaSink, Tally]]:
    """An opened sink."""
    settings = {"type": "kafka", "brokers": address, "topic": topic}
    sink = KafkaSinkConfig.model_validate(settings | fields).build("out")
    tally = Tally()
    try:
        await sink.open(tally)
        yield sink, tally
    finally:
        await sink.close()


def from_kafka(key: bytes | None = b"k", value: bytes | None = b"v", headers: Any = ()) -> bytes:
    """Metadata of a segment as the source packs it."""
    record = SimpleNamespace(key=key, value=value, offset=77, headers=headers)
    return kafka_meta.pack(b"came-from", 3, 5, record)


@pytest.mark.parametrize("compression", ["none", "gzip", "lz4", "snappy", "zstd"])
async def test_key_headers_time_and_value_are_kept(address: str, topic: MakeTopic, compression: str) -> None:
    name = await topic()
    headers = [("a", b"1"), ("b", None)]
    stamp = 1_700_000_000_000
    batch = [
        make_delivery([b"one"], key=b"k", timestamp_ns=stamp * 10**6, meta=from_kafka(headers=headers)),
        make_delivery([b"two"], key=b"made up", timestamp_ns=stamp * 10**6, meta=from_kafka(key=None)),
        make_delivery([b""], key=b"gone", timestamp_ns=stamp * 10**6, meta=from_kafka(value=None)),
        make_delivery([b"3", b"4"], key=b"peer", timestamp_ns=stamp * 10**6),
    ]
    batch[3].packets["timestamp_ns"] = stamp * 10**6
    async with writing(address, name, compression=compression) as (sink, _):
        await sink.write(ListBatch(batch))
    found = await consume(address, name, 5)
    assert [(r.key, r.value) for r in found] == [
        (b"k", b"one"),
        (None, b"two"),
        (b"gone", None),
        (b"peer", b"3"),
        (b"peer", b"4"),
    ]
    assert list(found[0].headers) == headers
    assert {r.timestamp for r in found} == {stamp}


async def test_keys_go_to_the_partition_that_other_clients_choose(address: str, topic: MakeTopic) -> None:
    from aiokafka.partitioner import DefaultPartitioner

    name = await topic(partitions=7)
    keys = [b"key %d" % i for i in range(50)]
    async with writing(address, name) as (sink, _):
        await sink.write(ListBatch([make_delivery([b"x"], key=key) for key in keys]))
    for record in await consume(address, name, 50):
        assert record.partition == DefaultPartitioner()(record.key, list(range(7)), list(range(7)))


async def test_topics_follow_the_template_and_records_are_lines(address: str, topic: MakeTopic) -> None:
    name = await topic()
    delivery = make_delivery(
        [b"x"], source=name.removesuffix("-flow"), records=[("flow", memoryview(b'{"a":1}\n{"b":2}\n'))]
    )
    async with writing(address, "{source}", content="records") as (sink, _):
        await sink.write(ListBatch([delivery]))
    assert [r.value for r in await consume(address, name, 2)] == [b'{"a":1}', b'{"b":2}']


async def test_a_dead_letter_says_why_and_where_it_came_from(address: str, topic: MakeTopic) -> None:
    name = await topic()
    letter = make_delivery(
        [b"bad"], error="stage broke", content=CONTENT_PACKETS, meta=from_kafka(headers=[("h", b"v")])
    )
    async with writing(address, name) as (sink, _):
        await sink.write(ListBatch([letter]))
    (found,) = await consume(address, name, 1)
    assert found.value == b"bad"
    assert dict(found.headers) == {
        "h": b"v",
        "streamspec.error": b"stage broke",
        "streamspec.source": b"source",
        "streamspec.topic": b"came-from",
        "streamspec.partition": b"3",
        "streamspec.offset": b"77",
    }


async def test_more_than_one_batch_per_partition_stays_in_order(address: str, topic: MakeTopic) -> None:
    name = await topic(partitions=2)
    sent = [(b"k%d" % (i % 3), b"%06d" % i + b"." * 900) for i in range(600)]
    async with writing(address, name, batch_bytes=20_000) as (sink, _):
        await sink.write(ListBatch([make_delivery([value], key=key) for key, value in sent]))
    found = await consume(address, name, 600)
    for key in {key for key, _ in sent}:
        assert [r.value for r in found if r.key == key] == [value for k, value in sent if k == key]


async def test_a_record_that_no_broker_takes_goes_elsewhere_and_holds_nothing_back(
    address: str, topic: MakeTopic
) -> None:
    name, oversize = await topic(settings={"max.message.bytes": "20000"}), await topic()
    values = [b"a", b"b" * 30_000, b"c" * 200_000, b"d"]
    fields = {"oversize_topic": oversize, "max_record_bytes": 100_000}
    async with writing(address, name, **fields) as (sink, tally):
        await sink.write(ListBatch([make_delivery([value]) for value in values]))
        assert tally["too_large_records"] == 2
    assert [r.value for r in await consume(address, name, 2)] == [b"a", b"d"]
    letters = await consume(address, oversize, 2)
    assert {bytes(r.value[:1]) for r in letters} == {b"b", b"c"}
    assert all(b"bytes are more than" in dict(r.headers)["streamspec.error"] for r in letters)


class PutOut:
    """A transactional source whose first commit the broker refuses, as from a member that was put out of its group."""

    def __init__(self, group: str) -> None:
        self.commit_lock = asyncio.Lock()
        self.finished: list[int] = []
        self._refused = OffsetCommit(group, 5, "nobody", None, {(group, 0): (1, "")})
        self._commits: list[OffsetCommit | None] = [self._refused, None]

    def owned(self, token: int) -> bool:
        return True

    def commit_for(self, tokens: Sequence[int]) -> OffsetCommit | None:
        return self._commits.pop(0)

    def committed(self, tokens: Sequence[int]) -> None:
        self.finished += tokens


async def test_what_a_refused_transaction_sent_is_not_committed_with_the_next_one(
    address: str, topic: MakeTopic
) -> None:
    name = await topic()
    source = PutOut(name)
    sink = KafkaSinkConfig.model_validate(
        {"type": "kafka", "brokers": address, "topic": name, "delivery": "exactly_once"}
    ).build("out")
    sink.attach(lambda name: cast("Source", source) if name == "in" else None)
    tally = Tally()
    try:
        await sink.open(tally)
        await sink.write(ListBatch([make_delivery([b"once"], source="in", meta=from_kafka())]))
        await sink.write(ListBatch([make_delivery([b"behind it"])]))
    finally:
        await sink.close()
    found = await consume(address, name, 2, isolation_level="read_committed")
    assert [record.value for record in found] == [b"once", b"behind it"]
    assert source.finished == [5]
    assert tally["aborted_transactions"] == 1
