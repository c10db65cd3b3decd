"""The source against a real broker."""

from __future__ import annotations

import numpy as np
import pytest

from streamspec.links import kafka_meta
from tests.kafka.clients import produce, reading
from tests.kafka.conftest import MakeTopic

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


async def test_records_arrive_with_key_headers_time_and_origin(address: str, topic: MakeTopic) -> None:
    name = await topic()
    headers = [("trace", b"\x01\x02"), ("empty", b""), ("none", None)]
    records = [
        {"key": b"k", "value": b"first", "timestamp_ms": 1_700_000_000_123, "headers": headers},
        {"key": None, "value": b"second"},
        {"key": b"gone", "value": None},
    ]
    await produce(address, name, records)
    async with reading(address, topics=[name], group=name) as (_, intake):
        first, second, third = await intake.wait_for(3, 15.0)
    assert (first.key, first.payload, second.payload) == (b"k", b"first", b"second")
    assert first.header["timestamp_ns"] == first.packets["timestamp_ns"][0] == 1_700_000_000_123 * 10**6
    origin = kafka_meta.unpack(first.meta)
    assert origin is not None
    assert (origin.topic, origin.partition, origin.offset, origin.headers) == (name, 0, 0, headers)
    assert second.key == f"{name}:0".encode()
    assert not kafka_meta.unpack(second.meta).has_key
    assert not kafka_meta.unpack(third.meta).has_value
    assert third.payload == b""


async def test_what_finished_is_not_read_again_and_what_did_not_is(address: str, topic: MakeTopic) -> None:
    name = await topic()
    await produce(address, name, [{"key": b"%d" % i, "value": b"%d" % i} for i in range(50)])
    unfinished = {3, 4, 20}
    async with reading(address, topics=[name], group=name, drain_timeout=0) as (source, intake):
        found = await intake.wait_for(50, 15.0)
        done = [c.header["token"] for c in found if int(c.payload) not in unfinished]
        source.acknowledge(np.array(done, dtype=np.uint64))
        assert source.status()["partitions"][f"{name}:0"]["span_records"] == 47
        assert source.status()["partitions"][f"{name}:0"]["finished_beyond_records"] == 44
    async with reading(address, topics=[name], group=name) as (source, intake):
        again = await intake.wait_for(3, 15.0)
        assert [int(c.payload) for c in again] == sorted(unfinished)
        assert intake.tally["replay_skipped"] == 44
        source.acknowledge(np.array([c.header["token"] for c in again], dtype=np.uint64))
        assert source.status()["partitions"][f"{name}:0"]["span_records"] == 0


async def test_a_named_instance_comes_back_at_once(address: str, topic: MakeTopic) -> None:
    name = await topic()
    await produce(address, name, [{"value": b"%d" % i} for i in range(3)])
    fields = {"topics": [name], "group": name, "instance": "one", "session_timeout": 30}
    for start in range(3):
        async with reading(address, **fields) as (source, intake):
            first, *_ = await intake.wait_for(3 - start, 15.0)
            assert first.payload == b"%d" % start
            source.acknowledge(np.array([first.header["token"]], dtype=np.uint64))
            fields["drain_timeout"] = 0


async def test_a_member_that_was_put_out_cannot_commit_in_a_transaction(address: str, topic: MakeTopic) -> None:
    from aiokafka import AIOKafkaProducer

    from streamspec.links.kafka_requests import PartitionLost, send_offsets

    name = await topic()
    await produce(address, name, [{"value": b"%d" % i} for i in range(3)])
    async with reading(address, topics=[name], group=name, drain_timeout=0) as (source, intake):
        found = await intake.wait_for(3, 15.0)
        tokens = [int(c.header["token"]) for c in found]
        coordinator = source._consumer._coordinator
        await coordinator._maybe_leave_group()  # as after a pause longer than session_timeout
        commit = source.commit_for(tokens)
        assert commit is not None
        assert commit.generation > 0
        producer = AIOKafkaProducer(bootstrap_servers=address, transactional_id=name)
        await producer.start()
        await producer.begin_transaction()
        with pytest.raises(PartitionLost):
            await send_offsets(producer, commit)
        producer._txn_manager._transaction_waiter.exception()
        await producer.abort_transaction()
        await producer.stop()
