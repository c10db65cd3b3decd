"""Wait for a condition without sleeping for a guessed time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_seconds: float = 20.0) -> None:
    """Let the loop turn until ``condition()`` is true; raises TimeoutError after ``timeout_seconds``."""
    async with asyncio.timeout(timeout_seconds):
        while not condition():  # noqa: ASYNC110 - any condition, not only those with an event
            await asyncio.sleep(0)
