"""Bytewax: ``map`` (or ``flat_map_batch``) between its Kafka operators, as a cluster of processes."""

from __future__ import annotations

import os
import sys
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from confluent_kafka import OFFSET_BEGINNING

from benchmarks.proof.job_a_peers import Job, start
from benchmarks.proof.job_a_work import Work


def flow() -> Dataflow:
    """What ``python -m bytewax.run`` asks for."""
    job = Job.given()
    work = Work()

    def one(message: Any) -> Any:
        return KafkaSinkMessage(message.key, work(message.value))

    def many(messages: list[Any]) -> list[Any]:
        results = work.many([message.value for message in messages])
        return [KafkaSinkMessage(m.key, result) for m, result in zip(messages, results, strict=True)]

    made = Dataflow("job_a")
    stream = kop.input("in", made, brokers=[job.brokers], topics=[job.topic], starting_offset=OFFSET_BEGINNING)
    results = op.flat_map_batch("work", stream.oks, many) if job.batches else op.map("work", stream.oks, one)
    kop.output("out", results, brokers=[job.brokers], topic=job.out)
    return made


def run(job: Job) -> None:
    """Become one process of the cluster."""
    os.environ["JOB"] = sys.argv[1]
    command = [sys.executable, "-m", "bytewax.run", f"{__package__}.bytewax_flow:flow"]
    if job.processes > 1:
        command += ["-i", str(job.index), "-a", ";".join(f"127.0.0.1:{port}" for port in job.ports)]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    start(run)
