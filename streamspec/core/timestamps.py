"""Times as text, the same in every line that the service writes."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp_text(timestamp_ns: int) -> str:
    """``2026-11-24T08:27:33.000000001Z`` (RFC 3339, UTC, all nanoseconds) for nanoseconds since 1970; times
    that a calendar cannot hold are given in seconds."""
    seconds, fraction = divmod(timestamp_ns, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds}.{fraction:09d}"
    return f"{moment.isoformat()[:19]}.{fraction:09d}Z"
