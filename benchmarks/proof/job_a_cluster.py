"""The broker of job A: topics, records in, results out, a slow sink."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from benchmarks.proof.job_a_traffic import PARTITIONS, Traffic
from benchmarks.proof.job_a_work import MARK
from streamspec.testing.kafka import Kafka, create_topic

JAVA = ("-Xmx1g", "-Xms512m", "-XX:+UseG1GC")
SETTINGS = {"quota.window.num": "3", "log.retention.ms": "-1"}
OWN_CLIENT = "harness"
_ALTER_QUOTAS = 49


@dataclass
class Step:
    """A stretch of open-loop load.

    Attributes:
        heavy_share: of the records, in place of what the traffic has.
        one_key_share: of the records, all of one light key.
        sink_bytes_per_second: what the broker takes from the contender.
    """

    name: str
    seconds: float
    rate: float
    heavy_share: float | None = None
    one_key_share: float = 0.0
    sink_bytes_per_second: float | None = None


@dataclass
class Sent:
    """What was sent in an open loop: per record body, moment it was due (seconds since 1970), how much later we handed
    it to the client, step and key."""

    bodies: list[int] = field(default_factory=list)
    due_seconds: list[float] = field(default_factory=list)
    late_seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)


@dataclass
class Results:
    """What is in an output topic, in the order of its partitions.

    Attributes:
        numbers: of the records.
        appended_seconds: since 1970, by the broker's clock in milliseconds.
        keys, values: of the results, values without the mark.
    """

    numbers: npt.NDArray[np.int64]
    appended_seconds: npt.NDArray[np.float64]
    keys: list[bytes]
    values: list[bytes]


class Cluster:
    """A real broker and its clients."""

    def __init__(self, folder: Path) -> None:
        self._kafka = Kafka.launch(folder, java=JAVA, settings=SETTINGS)
        self.brokers = self._kafka.address
        self._numbers = iter(range(1_000_000))
        self._watcher = Consumer({"bootstrap.servers": self.brokers, "group.id": "watcher", "log_level": 0})
        self._admin: Any = None

    def close(self) -> None:
        """End the broker."""
        self._watcher.close()
        self._kafka.close()

    # -- topics -------------------------------------------------------------------------------
    def make(self, *, appended: bool = False) -> str:
        """A new topic; with ``appended`` the broker's clock stamps the records."""
        name = f"a{os.getpid()}-{next(self._numbers)}"
        settings = {"message.timestamp.type": "LogAppendTime" if appended else "CreateTime"}
        asyncio.run(create_topic(self.brokers, name, partitions=PARTITIONS, settings=settings))
        return name

    def drop(self, *names: str) -> None:
        """Give the space back."""
        from confluent_kafka.admin import AdminClient

        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0})
        for done in self._admin.delete_topics(list(names)).values():
            try:
                done.result()
            except KafkaException:
                continue

    def size(self, topic: str) -> int:
        """Records in a topic."""
        total = 0
        for partition in range(PARTITIONS):
            try:
                low, high = self._watcher.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            except KafkaException:
                return 0
            total += high - low
        return total

    # -- in and out ---------------------------------------------------------------------------
    def fill(self, topic: str, traffic: Traffic, count: int) -> None:
        """Records 0 to ``count`` at once."""
        producer = Producer(
            self._options({"enable.idempotence": True, "linger.ms": 20, "queue.buffering.max.kbytes": 1 << 18})
        )
        for number in range(count):
            body = traffic.bodies[traffic.body_of(number)]
            self._produce(producer, topic, MARK.pack(number, 0) + body.content, body.key, body.partition)
        producer.flush()

    def send(self, topic: str, traffic: Traffic, steps: list[Step], first: int, sent: Sent) -> None:
        """Send the steps in an open loop, each record at its moment (a Poisson process); returns when all are sent."""
        producer = Producer(self._options({"enable.idempotence": True, "linger.ms": 1}))
        rng = random.Random(traffic.seed * 1000 + first)
        number, due = first, time.time() + 0.05
        for step in steps:
            index = len(sent.steps) and sent.steps[-1] + 1
            end = due + step.seconds
            self.throttle(step.sink_bytes_per_second)
            while due < end:
                body, key = _chosen(traffic, step, number, rng)
                if (left := due - time.time()) > 0.0005:
                    producer.poll(0)
                    time.sleep(left)
                chosen = traffic.bodies[body]
                value = MARK.pack(number, round(due * 1e9)) + chosen.content
                self._produce(producer, topic, value, key, chosen.partition if key == chosen.key else 0)
                sent.bodies.append(body)
                sent.due_seconds.append(due)
                sent.late_seconds.append(time.time() - due)
                sent.steps.append(index)
                sent.keys.append(key)
                number += 1
                due += rng.expovariate(step.rate)
        self.throttle(None)
        producer.flush()

    def read(self, topic: str) -> Results:
        """Everything that is in a topic now."""
        reader = Consumer(self._options({"group.id": "reader", "enable.auto.commit": False}))
        reader.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        wanted = self.size(topic)
        parts: list[list[tuple[int, float, bytes, bytes]]] = [[] for _ in range(PARTITIONS)]
        while wanted > 0:
            message: Any
            for message in reader.consume(min(2000, wanted), 5.0):
                wanted -= 1
                value = message.value()
                row = (MARK.unpack_from(value)[0], message.timestamp()[1] / 1e3, message.key(), value[MARK.size :])
                parts[message.partition()].append(row)
        reader.close()
        rows = [row for part in parts for row in part]
        return Results(
            np.array([row[0] for row in rows], dtype=np.int64),
            np.array([row[1] for row in rows], dtype=np.float64),
            [row[2] for row in rows],
            [row[3] for row in rows],
        )

    def _options(self, more: dict[str, Any]) -> dict[str, Any]:
        return {"bootstrap.servers": self.brokers, "client.id": OWN_CLIENT, "log_level": 0, **more}

    @staticmethod
    def _produce(producer: Producer, topic: str, value: bytes, key: bytes, partition: int) -> None:
        while True:
            try:
                producer.produce(topic, value, key, partition=partition)
                return
            except BufferError:
                producer.poll(0.05)

    # -- slow sink ----------------------------------------------------------------------------
    def throttle(self, bytes_per_second: float | None) -> None:
        """Take no more than that from clients other than ours, by a quota of the broker; None: as much as they send."""
        self._quota([("user", "ANONYMOUS")], bytes_per_second)
        ours = None if bytes_per_second is None else 1e12
        self._quota([("user", "ANONYMOUS"), ("client-id", OWN_CLIENT)], ours)

    def _quota(self, entity: list[tuple[str, str]], limit: float | None) -> None:
        body = struct.pack(">ii", 1, len(entity)) + b"".join(_text(kind) + _text(name) for kind, name in entity)
        body += (
            struct.pack(">i", 1)
            + _text("producer_byte_rate")
            + struct.pack(">d?", float(round(limit or 0)), limit is None)
        )
        body += b"\0"  # not only validated
        request = struct.pack(">hhi", _ALTER_QUOTAS, 0, 1) + _text(OWN_CLIENT) + body
        host, _, port = self.brokers.partition(",")[0].rpartition(":")
        with socket.create_connection((host, int(port)), 10.0) as peer:
            peer.sendall(struct.pack(">i", len(request)) + request)
            size = struct.unpack(">i", _exactly(peer, 4))[0]
            answer = _exactly(peer, size)
        code = struct.unpack_from(">h", answer, 12)[0]  # behind correlation, throttle time and count
        if code:
            raise RuntimeError(f"the broker refuses a quota: error {code}: {answer[14:]!r}")


def _chosen(traffic: Traffic, step: Step, number: int, rng: random.Random) -> tuple[int, bytes]:
    """Body and key of a record."""
    if step.heavy_share is not None and rng.random() < step.heavy_share:
        body = rng.choice(traffic.heaviest)
    else:
        body = traffic.body_of(number)
    key = traffic.bodies[body].key
    if step.one_key_share and not traffic.bodies[body].heavy and rng.random() < step.one_key_share:
        key = b"light-0"
    return body, key


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _exactly(peer: socket.socket, size: int) -> bytes:
    return b"".join(_pieces(peer, size))


def _pieces(peer: socket.socket, size: int) -> Iterator[bytes]:
    while size:
        piece = peer.recv(size)
        if not piece:
            raise ConnectionError("the broker ended the connection")
        size -= len(piece)
        yield piece
