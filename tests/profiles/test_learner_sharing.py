"""The learner process tells what it learned and takes over what others did."""

from __future__ import annotations

import pytest

from streamspec.profiles.config import LearningConfig
from streamspec.profiles.online import OnlineLayer
from streamspec.profiles.shared_state import experience
from streamspec.testing.outcomes import HEADS, make_outcomes
from tests.profiles.test_learner import learning, until

pytestmark = pytest.mark.slow


async def test_what_is_learned_is_told_and_taken_over() -> None:
    told: list[bytes] = []
    async with learning(share_interval_seconds=1.0) as client:
        client.on_shared = told.append
        client.offer(make_outcomes(1, 600))
        await client.wait_learned()
        await until(lambda: told and experience(told[-1]) == 600)
        client.offer(make_outcomes(2, 100))
    assert experience(told[-1]) == 700  # at the end too
    refused: list[str] = []
    async with learning(share_interval_seconds=3600.0) as client:
        told.clear()
        client.on_shared, client.on_refused = told.append, refused.append
        better = OnlineLayer(HEADS, None, LearningConfig(tree_cpu_share=0))
        better.learn(make_outcomes(1, 2000))
        assert client.adopt(b"no state")
        assert client.adopt(better.shared())
        await client.wait_adopted()
        assert client.adopted == 3
        assert client.snapshot.status["learned"] == 2000
    assert len(refused) == 1
    assert told == []  # it learned nothing of its own
