"""Instances share what they learn over a real topic: they start warm, and nothing forged gets in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streamspec.app import Service
from streamspec.assembly.learning import Learning
from streamspec.assembly.sharing import Sharing
from streamspec.profiles.config import LearningConfig
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.shared_state import experience, seal, unseal
from streamspec.profiles.signing import SigningKey
from streamspec.testing import kafka
from streamspec.testing.outcomes import make_outcomes
from tests.kafka.clients import consume, produce
from tests.profiles.test_learner import until
from tests.services import Receiver, free_port, running, send, service_config

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(150)]

SECRET = b"shared-by-all-instances-" + b"0" * 16
KEY, FOREIGN = SigningKey(SECRET), SigningKey(b"f" * 40)
MESSAGES = 20


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSPEC_PROFILES_KEY", SECRET.decode())


@pytest.fixture
def name(address: str) -> str:
    """Of a topic that nobody has made."""
    return f"profiles-{time.monotonic_ns()}"


def share(address: str, topic: str, instance: str, **changes: Any) -> dict[str, Any]:
    settings = {"type": "kafka", "brokers": address, "topic": topic, "instance": instance, "interval": 1}
    return {"share": settings | {"connect_timeout": 30} | changes}


@asynccontextmanager
async def instance(receiver: Receiver, profiles: dict[str, Any]) -> AsyncIterator[tuple[Service, int]]:
    """A service whose one stage costs what no base model knows."""
    port = free_port()
    config = service_config(
        port,
        receiver.address,
        stages=[{"type": "map", "function": "tests.stages_for_tests:costly"}],
        learning={"tree_cpu_share": 0, "snapshot_interval": 0.1},
        profiles=profiles,
    )
    async with running(config) as (service, _):
        yield service, port


@contextmanager
def away(broker: kafka.Kafka) -> Iterator[None]:
    broker.nodes[0].kill()
    try:
        yield
    finally:
        broker.nodes[0].start()
        broker.wait_ready()


def learning_of(service: Service) -> Learning:
    assert service.steering is not None
    assert service.steering.learning is not None
    return service.steering.learning


def sharing_of(service: Service) -> Sharing:
    sharing = learning_of(service).sharing
    assert sharing is not None
    return sharing


async def error_of_first(service: Service, port: int, count: int = MESSAGES) -> float:
    """Mean absolute log error of the predictions for the first segments, each made before it was learned."""
    learning = learning_of(service)
    await learning.client.wait_ready()
    inherited = learning.client.snapshot.status.get("learned", 0)
    for number in range(count):
        send(port, b"%06d" % number * 100)
        await until(lambda wanted=number + 1: learning.client.finished >= wanted)  # type: ignore[misc]
    await learning.client.wait_learned()
    await until(lambda: learning.client.snapshot.status.get("learned") == inherited + count)
    heads = learning.client.snapshot.status["heads"]
    return float(next(iter(heads.values()))["recent_log_error"])


def learned_by_another(service: Service, outcomes: int) -> bytes:
    """What an instance with the chain and base model of ``service`` would tell after so many outcomes."""
    learning = learning_of(service)
    identity = "" if learning.base is None else learning.base.identity
    base = None if learning.base is None else learning.base.model
    layer = OnlineLayer(learning.heads, base, LearningConfig(tree_cpu_share=0), base_identity=identity)
    layer.learn(make_outcomes(1, outcomes))
    return layer.shared()


async def settings_of(address: str, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        (told,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        await admin.close()
    return {entry[0]: entry[1] for entry in told.resources[0][4]}


async def test_a_second_service_starts_warm(address: str, name: str, receiver: Receiver) -> None:
    """The first makes the topic, and tells what it learned at its end; the second sees the same traffic."""
    async with instance(receiver, share(address, name, "one", interval=3600)) as (service, port):
        cold = await error_of_first(service, port)
        await error_of_first(service, port, 60 - MESSAGES)
    assert sharing_of(service).published == 1
    async with instance(receiver, share(address, name, "two", interval=3600)) as (service, port):
        warm = await error_of_first(service, port)
        assert service.summary()["learning"]["sharing"]["heads_adopted"] == 1
    print(f"mean log error of the first {MESSAGES}: cold {cold:.3f}, warm {warm:.3f}")
    assert warm < 0.7 * cold
    first, second = await consume(address, name, 2)
    assert (first.key, second.key) == (b"online/one", b"online/two")
    assert [experience(unseal(KEY, one.key, one.value)) for one in (first, second)] == [60, 60 + MESSAGES]
    assert "compact" in (await settings_of(address, name))["cleanup.policy"]


async def test_a_running_instance_takes_over_what_is_genuine(address: str, name: str, receiver: Receiver) -> None:
    """Four records that are not are refused, each in one line; one of another group is not looked at."""
    await kafka.create_topic(address, name)
    async with instance(receiver, share(address, name, "young")) as (service, port):
        body, sharing = learned_by_another(service, 500), sharing_of(service)
        genuine = seal(KEY, b"online/old", body)
        forged = {
            b"online/other-key": seal(FOREIGN, b"online/other-key", body),
            b"online/renamed": genuine,
            b"online/changed": genuine[:-1] + bytes([genuine[-1] ^ 1]),
            b"online/noise": b"cos\nsystem\n",
            b"another-group/one": b"not ours to judge",
        }
        await produce(address, name, [{"key": key, "value": value} for key, value in forged.items()] * 2)
        await until(lambda: sharing.refused["not_authentic"] == 8)
        assert sharing.summary()["heads_adopted"] == 0
        await produce(address, name, [{"key": b"online/old", "value": genuine}])
        await until(lambda: sharing.summary()["heads_adopted"] == 1)
        assert learning_of(service).client.snapshot.status["learned"] == 500
        assert (await error_of_first(service, port, 2)) > 0  # and the stream goes on


async def test_a_broker_that_is_away_never_stops_the_stream(receiver: Receiver) -> None:
    nobody = f"127.0.0.1:{kafka.free_ports(1)[0]}"
    async with instance(receiver, share(nobody, "any", "one", connect_timeout=0.5)) as (service, port):
        await error_of_first(service, port, 2)
        health = sharing_of(service).health()
    assert health.condition == "degraded"
    assert "no broker answers" in health.reason


async def test_without_a_key_nothing_is_shared(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    monkeypatch.delenv("STREAMSPEC_PROFILES_KEY")
    async with instance(receiver, share("127.0.0.1:1", "any", "one")) as (service, port):
        await error_of_first(service, port, 2)
        learning = learning_of(service)
        told = {part.component: part.reason for part in learning.health()}
    assert learning.sharing is None
    assert "no key to sign with" in told["profile sharing"]


async def test_a_broker_that_goes_and_comes_back(broker: kafka.Kafka, name: str, receiver: Receiver) -> None:
    """What is learned while it is away is told afterwards, and the end without it is soon."""
    async with instance(receiver, share(broker.address, name, "one")) as (service, port):
        with away(broker):
            await error_of_first(service, port, 3)
        await until(lambda: sharing_of(service).published)
        with away(broker):
            await error_of_first(service, port, 2)
            ending = time.monotonic()
            service.stop()
            await until(lambda: sharing_of(service).closed)
            took_seconds = time.monotonic() - ending
    print(f"ended without a broker in {took_seconds:.1f} s")
    assert took_seconds < 20
