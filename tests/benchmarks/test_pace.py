"""What senders owe."""

from __future__ import annotations

import pytest

from benchmarks.proof import pace
from benchmarks.proof.pace import MOST_BEHIND_SECONDS, Pace


def test_what_was_missed_for_long_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now)
    sending = Pace(rate=10_000, seconds=1)
    now = 100.001
    assert sending.due(0) == pytest.approx(10, abs=1)
    now = 100.9  # the core was another's
    burst = sending.due(10) - 10
    assert burst == pytest.approx(10_000 * MOST_BEHIND_SECONDS, abs=1)
    now = 100.901
    assert sending.due(10 + burst) == pytest.approx(10 + burst + 10, abs=2)
    now = 102.1
    assert sending.due(30) < 0
