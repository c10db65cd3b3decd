"""Times as text, the same in every line that the service writes."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def timestamp_text(timestamp_ns: int) -> str:
    """``2026-11-24T08:27:33.000000001Z`` (RFC 3339, UTC, all nanoseconds) for nanoseconds since 1970; times
    that a calendar cannot hold are given in seconds."""
    seconds, fraction = divmod(timestamp_ns, 10**9)
    date_and_time, zone = _second_text(seconds)
    return f"{date_and_time}.{fraction:09d}{zone}"


@lru_cache(maxsize=4096)
def _second_text(seconds: int) -> tuple[str, str]:
    """Lines of one second share its text, which is the costly part."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()[:19], "Z"
    except (ValueError, OverflowError, OSError):
        return str(seconds), ""
