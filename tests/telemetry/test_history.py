"""An hour of points, each encoded once."""

from __future__ import annotations

import json

from streamspec.telemetry.history import KEPT_SECONDS, History
from streamspec.testing.status import START_SECONDS, ManualReader


def test_the_last_hour_is_kept_and_given_in_pieces() -> None:
    history, reader = History(), ManualReader()
    for _ in range(KEPT_SECONDS + 10):
        history.add(reader.tick())
    assert len(history) == KEPT_SECONDS
    newest = json.loads(history.encoded(3))
    assert [point["at"] - START_SECONDS for point in newest] == [3608, 3609, 3610]
    older = json.loads(history.encoded(2, before=newest[0]["at"]))
    assert [point["at"] - START_SECONDS for point in older] == [3606, 3607]
    assert json.loads(History().encoded()) == []


def test_a_point_has_what_the_charts_show() -> None:
    point = json.loads(History().add(ManualReader().tick()))
    assert point["lanes"]["lane1"] == [51.0, 5.1e6, 0.004, 0.021, 5, 1]
    assert point["content"] == {"json": 6e6, "tls": 4e6}
    assert point["work"] == [0.9, 1.0, 0.19]
