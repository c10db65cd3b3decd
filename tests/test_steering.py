"""The whole service learns from its segments and controls itself: real sockets, workers, learner process, database."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from streamspec.config import ServiceConfig
from streamspec.explain import stored_decisions
from streamspec.profiles.database import ProfileDatabase
from streamspec.testing.waiting import until
from tests.services import Receiver, free_port, running, send, service_config

pytestmark = pytest.mark.slow

STAGES = [{"type": "compress", "levels": [1, 9]}]


def _steered(port: int, out: str, folder: Path, **control: Any) -> ServiceConfig:
    return service_config(
        port,
        out,
        stages=STAGES,
        profiles={"database": str(folder / "profiles.db")},
        learning={"snapshot_interval": "0.1 s"},
        control={"period": "50 ms", "glance": "20 ms", **control},
    )


def _messages(count: int) -> list[bytes]:
    return [json.dumps({"n": i, "text": "abc" * (i % 50)}).encode() for i in range(count)]


async def test_every_outcome_is_learned_or_counted_and_survives_a_restart(receiver: Receiver, tmp_path: Path) -> None:
    port = free_port()
    config = _steered(port, receiver.address, tmp_path)
    learned = []
    for _ in range(2):
        async with running(config) as (service, task):
            steering = service.steering
            assert steering is not None
            assert steering.learning is not None
            client = steering.learning.client
            await client.wait_ready()
            before = len(receiver.received())
            send(port, *_messages(200))
            await until(lambda before=before: len(receiver.received()) > before)
            await until(lambda client=client: client.finished > 0 and not client.waiting and client.snapshot.version)
            predictor = service.dispatcher.foresight.predictor  # type: ignore[union-attr]
            assert predictor is client.snapshot
            service.stop(signal.SIGTERM)
            assert await task == 0
        summary = service.summary()
        told = summary["learning"]
        assert told["learned"] + sum(told["skipped"].values()) == summary["segments_delivered"]
        learned.append(told["learned"])
    assert min(learned) > 0
    with ProfileDatabase.open(tmp_path / "profiles.db", read_only=True) as database:
        assert database.online_state("online") is not None


async def test_outcomes_carry_features_and_what_was_predicted(receiver: Receiver, tmp_path: Path) -> None:
    port = free_port()
    async with running(_steered(port, receiver.address, tmp_path)) as (service, _):
        send(port, *_messages(50))
        await until(lambda: service.dispatcher.accounts.delivered_segments > 0)
        rows = service.dispatcher.accounts.recent_outcomes()
    assert (rows["profiled"] == 1).all()
    assert (rows["predicted_ns"] > 0).all()
    assert (rows["predicted_upper_ns"] >= rows["predicted_ns"]).all()
    assert (rows["features"][:, 0] == rows["length"]).all()
    assert (rows["payload_bytes_out"] > 0).all()


async def test_decisions_of_a_recommending_service_change_nothing_and_are_on_record(
    receiver: Receiver, tmp_path: Path
) -> None:
    port = free_port()
    guard = {"learn_first": "0 s", "down_after": "0 s", "down_after_decisions": 1}
    config = _steered(port, receiver.address, tmp_path, mode="recommend", guard=guard)
    config = config.model_copy(update={"engine": config.engine.model_copy(update={"workers": 2})})
    async with running(config) as (service, _):
        lanes = [(lane.name, lane.allocation) for lane in service.dispatcher.lanes]
        for _ in range(100):
            send(port, *_messages(20))
            await until(lambda: not service.dispatcher.accounts.unfinished_segments)
            if service.decisions.last(1):
                break
            await service.dispatcher._tick_passed()
        assert [(lane.name, lane.allocation) for lane in service.dispatcher.lanes] == lanes
    views = stored_decisions(tmp_path / "profiles.db", 10)
    assert views
    assert {view["mode"] for view in views} == {"recommend"}


async def test_a_reload_of_the_chain_goes_on_learning(receiver: Receiver, tmp_path: Path) -> None:
    port = free_port()
    config = _steered(port, receiver.address, tmp_path)
    async with running(config) as (service, _):
        first = service.steering
        other = config.model_copy(update={"stages": ServiceConfig.model_validate(_dump(config, 3)).stages})
        await service.reload(other)
        assert service.steering is not first
        assert service.steering is not None
        assert service.steering.learning is not None
        client = service.steering.learning.client
        await client.wait_ready()
        assert len({head.variant for head in client.plan.heads}) == 3
        send(port, *_messages(50))
        await until(lambda: client.finished > 0 and client.waiting == 0)
        assert client.learned > 0


def _dump(config: ServiceConfig, levels: int) -> dict[str, Any]:
    content = config.model_dump(mode="json", exclude_unset=True)
    return content | {"stages": [{"type": "compress", "levels": list(range(1, levels + 1))}]}


async def test_a_database_that_cannot_be_used_does_not_stop_the_stream(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "profiles.db").mkdir()
    port = free_port()
    async with running(_steered(port, receiver.address, tmp_path)) as (service, _):
        send(port, b"still here")
        await until(lambda: receiver.received() != [])
        assert service.steering is not None
        assert service.steering.learning is not None
        assert any(part.component == "profile database" for part in service.steering.learning.health())


async def test_without_stages_nothing_is_predicted(receiver: Receiver) -> None:
    async with running(service_config(free_port(), receiver.address)) as (service, _):
        assert service.dispatcher.foresight is None
        assert service.steering is not None
        assert service.steering.learning is None
        assert service.steering.control.mode == "off"
