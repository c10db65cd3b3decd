"""Segments of several messages, for stages that work on each message on its own."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from streamspec.core.interfaces import Segment


def describes_payload(segment: Segment) -> bool:
    """Whether the packet table still describes the payload: no stage before has exchanged it."""
    if not len(segment.payload):
        return False
    present = np.frombuffer(segment.payload, dtype=np.uint8)
    return len(present) == len(segment.original) and bool(np.may_share_memory(present, segment.original))


def message_spans(segment: Segment) -> Iterable[tuple[int, int]]:
    """First byte of each message in the payload, and the one behind its last."""
    starts = segment.packets["offset"]
    return zip(starts.tolist(), (starts + segment.packets["captured_bytes"]).tolist(), strict=True)
