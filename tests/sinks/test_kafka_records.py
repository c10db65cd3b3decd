"""Deliveries into records of Kafka, without a broker."""

from __future__ import annotations

from types import SimpleNamespace

from streamspec.links import kafka_meta
from streamspec.sinks.kafka import KafkaSinkConfig
from streamspec.sinks.kafka_records import RecordBuilder
from streamspec.testing.deliveries import make_delivery


def test_results_by_message_are_a_record_each_with_key_and_own_time() -> None:
    first = SimpleNamespace(offset=5, key=b"k", value=b"a", headers=())
    meta = kafka_meta.pack(b"in", 0, 1, first, lone=False)
    results = [memoryview(b"A"), memoryview(b"B")]
    delivery = make_delivery([b"a", b"b"], key=b"k", meta=meta, payload=memoryview(b"AB"))
    delivery.messages = results
    delivery.packets["timestamp_ns"] = [7_000_000, 9_000_000]
    config = KafkaSinkConfig(type="kafka", brokers="127.0.0.1:9092", topic="out")
    made = list(RecordBuilder(config, lambda topic, record: None).records([delivery]))
    assert made == [("out", (b"k", b"A", 7, [])), ("out", (b"k", b"B", 9, []))]
