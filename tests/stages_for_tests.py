"""Stages of a user's own, as the tests bring them."""

from __future__ import annotations

import time
from typing import Any


def shout(payload: bytes) -> bytes:
    """Upper case."""
    return payload.upper()


class Stuck:
    """Never finishes."""

    def process(self, segment: Any, context: Any) -> None:
        """Sleep for an hour."""
        time.sleep(3600)


def talkative(payload: bytes) -> bytes:
    """Prints, as people do when they look for a fault."""
    print("looking at", len(payload))
    return payload
