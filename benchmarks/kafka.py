"""Kafka to Kafka: the service against bare aiokafka loops in one process, on a real broker.

``python -m benchmarks.kafka [--json] [--quick] [--only identity|work|light|partition]``

A topic is filled first; each contender then reads it from its start and writes to a topic of its own. Rates are
taken between a tenth and nine tenths of the output, so neither start-up nor the end count. CPU time is that of the
contender's own process tree: the broker's and the generator's are not in it (on two cores they still compete).

- ``identity``: no stage; 1 KiB and 16 KiB records with 64 keys; the bare loop is ``getmany`` -> ``send``.
- ``work``: inspect and compress; the bare loop calls the same stages in its one process.
- ``light``: the same at 80 % of the bare loop's rate; p99 of the light records, from production to the broker.
- ``partition``: a stage that sleeps, one partition, 64 keys, four workers: how busy they are, and the order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streamspec.testing.kafka import Kafka, create_topic

KEYS = 64
PARTITIONS = 4
START_SECONDS = 120.0
BROKER_JAVA = ("-Xmx1g", "-Xms256m", "-XX:+UseG1GC")

BARE = """
import asyncio, sys, uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
brokers, topic, out, work = sys.argv[1:5]
if work:
    from benchmarks.kafka_work import process
async def main():
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=brokers, group_id="bare-" + out, enable_auto_commit=False,
                                auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=brokers, enable_idempotence=True, max_batch_size=262144,
                                max_request_size=1 << 20)
    await consumer.start()
    await producer.start()
    while True:
        polled = await consumer.getmany(timeout_ms=200, max_records=1024)
        for records in polled.values():
            for r in records:
                value = process(r.value) if work else r.value
                await producer.send(out, value, key=r.key, timestamp_ms=r.timestamp, headers=r.headers)
        if polled:
            await producer.flush()
            await consumer.commit()
uvloop.run(main())
"""

SERVICE = """
sources:
  in: {{type: kafka, brokers: "{brokers}", topics: [{topic}], group: "{out}"{more}}}
stages: {stages}
sinks:
  out: {{type: kafka, brokers: "{brokers}", topic: {out}}}
engine: {{workers: {workers}}}
"""


@dataclass
class Run:
    """What one contender did.

    Attributes:
        cpu_seconds_per_record: of its own process tree.
    """

    name: str
    records_per_second: float
    cpu_seconds_per_record: float
    records: int


class Topics:
    """Makes topics, fills them and watches them grow.

    Args:
        brokers: bootstrap servers.
    """

    def __init__(self, brokers: str) -> None:
        self.brokers = brokers
        self._numbers = iter(range(1000))
        self._watcher = Consumer({"bootstrap.servers": brokers, "group.id": "watcher", "log_level": 0})

    def make(self, partitions: int = PARTITIONS) -> str:
        """A new empty topic."""
        name = f"bench-{os.getpid()}-{next(self._numbers)}"
        asyncio.run(create_topic(self.brokers, name, partitions=partitions))
        return name

    def fill(self, topic: str, values: Iterator[bytes], keys: int = KEYS) -> int:
        """Write the values, their keys in turn; returns how many."""
        settings = {"linger.ms": 20, "batch.size": 1 << 19, "queue.buffering.max.kbytes": 1 << 19, "log_level": 0}
        producer = Producer({"bootstrap.servers": self.brokers, **settings})
        count = 0
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, b"key-%d" % (count % keys))
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
        producer.flush()
        return count

    def size(self, topic: str, partitions: int = PARTITIONS) -> int:
        """Records in a topic; 0 while its leaders are not known everywhere."""
        places = [TopicPartition(topic, number) for number in range(partitions)]
        try:
            marks = [self._watcher.get_watermark_offsets(place, timeout=10) for place in places]
        except KafkaException:
            return 0
        return sum(high - low for low, high in marks)

    def close(self) -> None:
        """Disconnect."""
        self._watcher.close()


def cpu_seconds(process: subprocess.Popen[Any]) -> float:
    """User and system time of a process and all below it, those that ended included."""
    root = psutil.Process(process.pid)
    times = [root.cpu_times(), *(child.cpu_times() for child in root.children(recursive=True))]
    own = sum(each.user + each.system for each in times)
    return own + times[0].children_user + times[0].children_system


@contextmanager
def running(command: Sequence[str], cwd: str | None = None) -> Iterator[subprocess.Popen[Any]]:
    """A process that is ended behind the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=cwd)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def bare_command(brokers: str, topic: str, out: str, work: str = "") -> list[str]:
    """The bare loop."""
    return [sys.executable, "-W", "ignore", "-c", BARE, brokers, topic, out, work]


def service_command(
    folder: Path, brokers: str, topic: str, out: str, *, stages: str = "[]", workers: int = 1, more: str = ""
) -> list[str]:
    """The service with a configuration file in ``folder``."""
    config = folder / f"{out}.yaml"
    config.write_text(SERVICE.format(brokers=brokers, topic=topic, out=out, stages=stages, workers=workers, more=more))
    return [sys.executable, "-m", "streamspec", "run", str(config)]


def measure(name: str, topics: Topics, command: Sequence[str], out: str, total: int, partitions: int) -> Run:
    """Run a contender until the output holds everything."""
    marks: dict[float, tuple[float, float, int]] = {}
    with running(command) as process:
        deadline = time.monotonic() + START_SECONDS
        while True:
            done = topics.size(out, partitions)
            for share in (0.1, 0.9):
                if done >= share * total and share not in marks:
                    marks[share] = (time.monotonic(), cpu_seconds(process), done)
            if done >= total:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                assert process.stderr is not None
                process.kill()
                raise RuntimeError(f"{name}: {done} of {total}: {process.stderr.read()[-2000:]!r}")
            time.sleep(0.01)
    (t0, c0, n0), (t1, c1, n1) = marks[0.1], marks[0.9]
    return Run(name, (n1 - n0) / (t1 - t0), (c1 - c0) / (n1 - n0), total)


def identity(topics: Topics, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """Nothing is done to records: what the way through the service costs."""
    rows = []
    for size, count in ((1024, 40_000 if quick else 150_000), (16 * 1024, 6_000 if quick else 24_000)):
        topic = topics.make()
        rng = random.Random(size)
        bodies = [rng.randbytes(size) for _ in range(64)]
        topics.fill(topic, (bodies[i % 64] for i in range(count)))
        runs = []
        for round_number in range(1 if quick else 2):
            contenders: list[tuple[str, Callable[[str], list[str]]]] = [
                ("bare", lambda out: bare_command(topics.brokers, topic, out)),
                ("service", lambda out: service_command(folder, topics.brokers, topic, out)),
                (
                    "service, gather_bytes 64 KiB",
                    lambda out: service_command(folder, topics.brokers, topic, out, more=", gather_bytes: 64 KiB"),
                ),
            ]
            for name, command in contenders if not round_number % 2 else reversed(contenders):
                out = topics.make()
                runs.append(measure(name, topics, command(out), out, count, PARTITIONS))
        bare = max(run.records_per_second for run in runs if run.name == "bare")
        rows += [{"bytes": size, **asdict(run), "ratio_to_bare": run.records_per_second / bare} for run in runs]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a quarter of the records, one round")
    parser.add_argument("--only", choices=sorted(PARTS), help="one part")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cluster = Kafka.launch(Path(folder) / "kafka", java=BROKER_JAVA)
        topics = Topics(cluster.address)
        try:
            wanted = [options.only] if options.only else list(PARTS)
            found = {name: PARTS[name](topics, Path(folder), options.quick) for name in wanted}
        finally:
            topics.close()
            cluster.close()
    if options.json:
        print(json.dumps(found))
        return 0
    for name, rows in found.items():
        print(f"-- {name}")
        for row in rows:
            print("  " + ", ".join(f"{key} {_shown(value)}" for key, value in row.items()))
    return 0


def _shown(value: object) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


PARTS = {"identity": identity}

if __name__ == "__main__":
    sys.exit(main())
