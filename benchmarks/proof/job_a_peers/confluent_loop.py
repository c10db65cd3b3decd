"""A bare loop with confluent-kafka: idempotent producer, offsets committed behind a flush each second."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer

from benchmarks.proof.job_a_peers import Job, start
from benchmarks.proof.job_a_work import Work

COMMIT_SECONDS = 1.0
BATCH_RECORDS = 500


def run(job: Job) -> None:
    """Until we are ended."""
    work = Work()
    consumer = Consumer(
        {
            "bootstrap.servers": job.brokers,
            "group.id": job.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    producer = Producer({"bootstrap.servers": job.brokers, "enable.idempotence": True})

    def revoked(_consumer: Any, _partitions: Any) -> None:
        producer.flush()
        with contextlib.suppress(KafkaException):  # nothing was read yet
            consumer.commit(asynchronous=False)

    consumer.subscribe([job.topic], on_revoke=revoked)
    committed = time.monotonic()
    dirty = False
    while True:
        if job.batches:
            messages = consumer.consume(BATCH_RECORDS, 0.05)
            results = work.many([message.value() for message in messages]) if messages else []
        else:
            message = consumer.poll(0.2)
            messages = [] if message is None or message.error() else [message]
            results = [work(message.value()) for message in messages]
        for message, result in zip(messages, results, strict=True):
            _produce(producer, job.out, result, message)
            dirty = True
        producer.poll(0)
        if dirty and time.monotonic() - committed > COMMIT_SECONDS:
            producer.flush()
            consumer.commit(asynchronous=True)
            committed, dirty = time.monotonic(), False


def _produce(producer: Any, out: str, result: bytes, message: Any) -> None:
    while True:
        try:
            producer.produce(out, result, message.key(), timestamp=message.timestamp()[1])
            return
        except BufferError:
            producer.poll(0.05)


if __name__ == "__main__":
    start(run)
