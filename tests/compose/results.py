"""Runs inside the compose network: how many records the topics hold, and whether results are what came in.

Prints one JSON object. ``match``: of the results looked at, those that decompress to a record of the input topic.
"""

from __future__ import annotations

import itertools
import json
import sys

import zstandard
from confluent_kafka import Consumer, TopicPartition

from loadgen.kafka import read_topic
from loadgen.target import parse_target

BROKER = "kafka:9092"
LOOKED_AT = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def ends(topic: str) -> int:
    """Records that were ever written to a topic."""
    consumer = Consumer({"bootstrap.servers": BROKER, "group.id": "proof", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=10)[1] for n in partitions)
    finally:
        consumer.close()


def values(topic: str, count: int | None) -> list[bytes]:
    """The first values of a topic."""
    records = read_topic(parse_target(f"kafka://{BROKER}/{topic}"))
    return [record.value for record in itertools.islice(records, count)]


found: dict[str, object] = {topic: ends(topic) for topic in ("packets", "results", "dead-letters")}
if LOOKED_AT:
    results = values("results", LOOKED_AT)
    sent = set(values("packets", None))
    payloads = [zstandard.decompress(result) for result in results]
    found |= {"looked_at": len(results), "match": sum(payload in sent for payload in payloads)}
    found |= {"bytes_in": sum(map(len, payloads)), "bytes_out": sum(map(len, results))}
print(json.dumps(found))
