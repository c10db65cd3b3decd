"""Stages of a user's own, as the tests bring them."""

from __future__ import annotations

import hashlib
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


def costly(payload: bytes) -> bytes:
    """About two milliseconds, whatever the payload."""
    hashlib.pbkdf2_hmac("sha256", payload[:64], b"salt", 6000)
    return payload
