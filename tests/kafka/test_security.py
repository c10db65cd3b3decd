"""TLS, mutual TLS, SASL and ACLs against a real broker; secrets stay secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamspec.core.errors import DependencyUnavailable
from streamspec.core.tally import Tally
from streamspec.sinks.kafka import KafkaSinkConfig
from streamspec.sources.kafka import KafkaConfig
from streamspec.testing import kafka
from streamspec.testing.certificates import Authority
from streamspec.testing.deliveries import ListBatch, make_delivery
from tests.kafka.clients import reading
from tests.kafka.conftest import MakeTopic
from tests.kafka.test_sink import writing

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PASSWORD = "correct-horse-7"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and a password file."""
    folder = tmp_path_factory.mktemp("secrets")
    authority = Authority(folder)
    for name in ("broker", "client"):
        leaf = authority.issue(name)
        (folder / f"{name}-both.pem").write_bytes(leaf.key.read_bytes() + leaf.certificate.read_bytes())
    Authority(folder, "stranger")
    (folder / "password").write_text(PASSWORD + "\n")
    return folder


@pytest.fixture(scope="module")
def secured(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.Kafka]:
    """A node with all kinds of listeners; ``alice`` may use topics and groups, ``bob`` nothing."""
    users = (("alice", PASSWORD), ("bob", PASSWORD))
    security = kafka.Security(files / "broker-both.pem", files / "authority.pem", users, acls=True)
    cluster = kafka.Kafka.launch(tmp_path_factory.mktemp("kafka") / "secured", security=security)
    kafka.allow(cluster.address, "User:alice")
    kafka.allow(cluster.address, "User:CN=client")
    yield cluster
    cluster.close()


WAYS = {
    "tls": ("SSL", {"tls": {"ca": "authority.pem"}}),
    "mutual tls": (
        "MUTUAL",
        {"tls": {"ca": "authority.pem", "certificate": "client.pem", "key": "client.key"}},
    ),
    "plain": ("SASL_SSL", {"tls": {"ca": "authority.pem"}, "sasl": {"mechanism": "PLAIN", "password": PASSWORD}}),
    "scram 256": (
        "SASL_SSL",
        {"tls": {"ca": "authority.pem"}, "sasl": {"mechanism": "SCRAM-SHA-256", "password": PASSWORD}},
    ),
    "scram 512, from a file": ("SASL_PLAINTEXT", {"sasl": {"password_file": "password"}}),
}


def access(files: Path, way: dict[str, Any], user: str = "alice") -> dict[str, Any]:
    """The fields of a way in, with paths."""
    fields: dict[str, Any] = {}
    if "tls" in way:
        fields["tls"] = {name: files / value for name, value in way["tls"].items()}
    if "sasl" in way:
        fields["sasl"] = {"username": user} | way["sasl"]
        if "password_file" in way["sasl"]:
            fields["sasl"]["password_file"] = files / way["sasl"]["password_file"]
    return fields


@pytest.mark.parametrize("way", WAYS)
async def test_records_pass(secured: kafka.Kafka, files: Path, topic: MakeTopic, way: str) -> None:
    listener, fields = WAYS[way]
    name = await topic(address=secured.address)
    address, options = secured.listener(listener), access(files, fields)
    async with writing(address, name, **options) as (sink, _):
        await sink.write(ListBatch([make_delivery([b"secret"])]))
    async with reading(address, topics=[name], group=name, **options) as (source, intake):
        (found,) = await intake.wait_for(1, 20.0)
        source.acknowledge(np.array([found.header["token"]], dtype=np.uint64))
    assert found.payload == b"secret"


async def refused(address: str, topic: str, **fields: Any) -> str:
    """What opening a sink is refused with."""
    settings = {"type": "kafka", "brokers": address, "topic": topic, "connect_timeout": 2}
    sink = KafkaSinkConfig.model_validate(settings | fields).build("out")
    with pytest.raises(DependencyUnavailable) as caught:
        await sink.open(Tally())
    await sink.close()
    assert PASSWORD not in str(caught.value)
    assert "wrong-" not in str(caught.value)
    return str(caught.value)


async def test_refusals_say_what_to_do(
    secured: kafka.Kafka, files: Path, topic: MakeTopic, capfd: pytest.CaptureFixture[str]
) -> None:
    name = await topic(address=secured.address)
    wrong = access(files, {"sasl": {"password": "wrong-password"}})
    assert "refuses name or password" in await refused(secured.listener("SASL_PLAINTEXT"), name, **wrong)
    stranger = {"tls": {"ca": files / "stranger.pem"}}
    assert "certificate" in (await refused(secured.listener("SSL"), name, **stranger)).lower()
    bob = access(files, {"sasl": {"mechanism": "PLAIN", "password": PASSWORD}}, user="bob")
    assert "not allowed" in await refused(secured.listener("SASL_PLAINTEXT"), name, **bob)
    printed = capfd.readouterr()
    assert PASSWORD not in printed.err + printed.out
    assert "wrong-password" not in printed.err + printed.out


async def test_a_group_that_is_not_ours_ends_the_source(secured: kafka.Kafka, files: Path, topic: MakeTopic) -> None:
    name = await topic(address=secured.address)
    kafka.allow(secured.address, "User:bob", groups=False)
    options = access(files, {"sasl": {"mechanism": "PLAIN", "password": PASSWORD}}, user="bob")
    with pytest.raises(DependencyUnavailable, match="not allowed to use the consumer group"):
        async with reading(secured.listener("SASL_PLAINTEXT"), topics=[name], group=name, **options) as (source, _):
            await source.ended.wait()


def test_secrets_are_not_shown() -> None:
    fields = {"brokers": "a:1", "sasl": {"username": "alice", "password": PASSWORD}}
    for config in (
        KafkaConfig.model_validate({"type": "kafka", "topics": "t", "group": "g"} | fields),
        KafkaSinkConfig.model_validate({"type": "kafka", "topic": "t"} | fields),
    ):
        assert PASSWORD not in repr(config) + str(config) + config.model_dump_json() + str(config.model_dump())
        assert config.client_options("here")["sasl_plain_password"] == PASSWORD
