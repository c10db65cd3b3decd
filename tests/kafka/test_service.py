"""The service between two topics at steady load, with an audit, while things break."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamspec.testing import kafka
from streamspec.testing.kafka_service import Passage

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(150)]

MakePassage = Callable[..., Passage]


@pytest.fixture
def passage(tmp_path: Path) -> Iterator[MakePassage]:
    """Makes both topics and what runs between them."""
    made: list[Passage] = []

    def make(
        cluster: kafka.Kafka, *, partitions: int = 4, copies: int = 1, out_only_on: int | None = None, **options: Any
    ) -> Passage:
        name = f"flow-{os.getpid()}-{time.monotonic_ns()}"
        shape: dict[str, Any] = {"partitions": partitions, "copies": copies}
        if copies == 3:
            shape["settings"] = {"min.insync.replicas": "2"}
        asyncio.run(kafka.create_topic(cluster.address, name, **shape))
        asyncio.run(kafka.create_topic(cluster.address, f"{name}-out", **shape, only_on=out_only_on))
        made.append(Passage(tmp_path, cluster.address, name, f"{name}-out", **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def nothing() -> None:
    """A quiet run."""


def test_all_is_delivered_once_in_order(broker: kafka.Kafka, passage: MakePassage) -> None:
    flow = passage(broker)
    instance = flow.start()
    flow.under_load(nothing, seconds=3)
    verdict = flow.verdict()
    summary = instance.stop()
    assert verdict.passes(), verdict.text()
    assert summary["segments_lost"] == summary["segments_shed"] == 0
    assert flow.records() == verdict.sent > 2000


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_kill_of_the_service(broker: kafka.Kafka, passage: MakePassage, delivery: str) -> None:
    flow = passage(broker, delivery=delivery)
    first = flow.start()

    def kill_and_start() -> None:
        first.kill()
        flow.start()

    flow.under_load(kill_and_start)
    verdict = flow.verdict()
    flow.instances[-1].stop()
    assert verdict.passes(allow_duplicates=delivery == "at_least_once"), verdict.text()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_kill_of_a_worker(broker: kafka.Kafka, passage: MakePassage, delivery: str) -> None:
    flow = passage(broker, delivery=delivery, workers=2)
    instance = flow.start()
    flow.under_load(instance.kill_worker, seconds=4)
    verdict = flow.verdict()
    summary = instance.stop()
    assert verdict.passes(), verdict.text()
    assert summary["worker_restarts"] == 1


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_instances_that_come_and_go(broker: kafka.Kafka, passage: MakePassage, delivery: str) -> None:
    flow = passage(broker, delivery=delivery)
    flow.start()

    def come_and_go() -> None:
        second = flow.start()
        time.sleep(1.0)
        second.stop()

    flow.under_load(come_and_go, seconds=6)
    verdict = flow.verdict()
    flow.instances[0].stop()
    assert verdict.passes(), verdict.text()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_restart_of_the_broker(broker: kafka.Kafka, passage: MakePassage, delivery: str) -> None:
    flow = passage(broker, delivery=delivery)
    flow.start()

    def restart() -> None:
        broker.nodes[0].kill()
        broker.nodes[0].start()
        broker.wait_ready()

    flow.under_load(restart)
    verdict = flow.verdict()
    flow.instances[0].stop()
    # a broker that is killed may have taken what it never confirmed
    assert verdict.passes(allow_duplicates=delivery == "at_least_once"), verdict.text()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_change_of_leaders(three: kafka.Kafka, passage: MakePassage, delivery: str) -> None:
    flow = passage(three, copies=3, delivery=delivery)
    flow.start()
    node = three.nodes[1 if delivery == "at_least_once" else 2]

    def away_and_back() -> None:
        node.kill()
        time.sleep(3.0)
        node.start()
        three.wait_ready()

    flow.under_load(away_and_back, seconds=7, rate=800)
    verdict = flow.verdict()
    flow.instances[0].stop()
    # a broker that is killed may have taken what it never confirmed
    assert verdict.passes(allow_duplicates=delivery == "at_least_once"), verdict.text()


def test_an_output_topic_that_is_away(three: kafka.Kafka, passage: MakePassage) -> None:
    flow = passage(three, out_only_on=3)
    instance = flow.start()

    def away_and_back() -> None:
        three.nodes[2].kill()
        time.sleep(5.0)
        three.nodes[2].start()
        three.wait_ready()

    flow.under_load(away_and_back, seconds=8, rate=800)
    verdict = flow.verdict()
    instance.stop()
    assert verdict.passes(), verdict.text()
