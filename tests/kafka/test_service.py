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
from tests.kafka.service import Passage

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(150)]

MakePassage = Callable[..., Passage]


@pytest.fixture
def passage(tmp_path: Path) -> Iterator[MakePassage]:
    """Makes both topics and what runs between them."""
    made: list[Passage] = []

    def make(cluster: kafka.Kafka, *, partitions: int = 4, copies: int = 1, **options: Any) -> Passage:
        name = f"flow-{os.getpid()}-{time.monotonic_ns()}"
        settings = {"min.insync.replicas": "2"} if copies == 3 else {}
        for topic in (name, f"{name}-out"):
            asyncio.run(
                kafka.create_topic(cluster.address, topic, partitions=partitions, copies=copies, settings=settings)
            )
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

    flow.under_load(come_and_go, seconds=8)
    verdict = flow.verdict()
    flow.instances[0].stop()
    assert verdict.passes(), verdict.text()
