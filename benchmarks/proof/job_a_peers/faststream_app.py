"""FastStream on confluent-kafka: a subscriber that publishes, one by one or in batches; its own acknowledgement policy
(at most once by default)."""

from __future__ import annotations

import os
import sys
from typing import Any

from faststream import FastStream
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaResponse

from benchmarks.proof.job_a_peers import Job, start
from benchmarks.proof.job_a_work import Work

BATCH_RECORDS = 500


def application() -> FastStream:
    """What ``faststream run --factory`` asks for."""
    job = Job.given()
    work = Work()
    broker = KafkaBroker(job.brokers)
    subscriber: Any = broker.subscriber
    options = {"group_id": job.group, "auto_offset_reset": "earliest"}
    if job.batches:

        @subscriber(job.topic, batch=True, max_records=BATCH_RECORDS, **options)
        async def many(values: list[bytes], message: KafkaMessage) -> None:
            raw: Any = message.raw_message
            results = work.many(values)
            made = [KafkaResponse(result, key=m.key()) for m, result in zip(raw, results, strict=True)]
            await broker.publish_batch(*made, topic=job.out)

    else:

        @subscriber(job.topic, **options)
        @broker.publisher(job.out)
        async def one(value: bytes, message: KafkaMessage) -> KafkaResponse:
            raw: Any = message.raw_message
            return KafkaResponse(work(value), key=raw.key())

    return FastStream(broker)


def run(job: Job) -> None:
    """Become FastStream's own command."""
    os.environ["JOB"] = sys.argv[1]
    command = [sys.executable, "-m", "faststream", "run", "--factory", f"{__package__}.faststream_app:application"]
    os.execv(sys.executable, [*command, "--log-level", "warning"])


if __name__ == "__main__":
    start(run)
