"""A real broker for the tests of this folder, or an honest skip."""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from streamspec.testing import kafka

MakeTopic = Callable[..., Awaitable[str]]

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Java there is no broker; what the mock broker can show is in ``test_mock_broker.py``."""
    reason = kafka.missing()
    for item in items:
        if item.get_closest_marker("kafka") and reason and not os.environ.get("STREAMSPEC_TEST_KAFKA"):
            item.add_marker(
                pytest.mark.skip(reason=f"kafka: no real broker here ({reason}); see the mock broker's tests")
            )


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.Kafka]:
    """One node of our own, which a test may stop and start."""
    cluster = kafka.Kafka.launch(tmp_path_factory.mktemp("kafka") / "one")
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def address(request: pytest.FixtureRequest) -> str:
    """Bootstrap servers of a broker that tests only use, ``STREAMSPEC_TEST_KAFKA`` if it is set."""
    given = os.environ.get("STREAMSPEC_TEST_KAFKA")
    return given or request.getfixturevalue("broker").address


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.Kafka]:
    """Three nodes."""
    cluster = kafka.Kafka.launch(tmp_path_factory.mktemp("kafka") / "three", 3)
    yield cluster
    cluster.close()


@pytest.fixture
def topic(address: str) -> MakeTopic:
    """Makes a topic with a name of its own: ``await topic(partitions=4)``."""

    async def make(**settings: Any) -> str:
        name = f"test-{os.getpid()}-{next(_numbers)}"
        await kafka.create_topic(settings.pop("address", address), name, **settings)
        return name

    return make
