"""A stage of your own as a class: `{type: map, function: "count_words:CountWords", path: [stages]}`."""

from __future__ import annotations

import json
from typing import Any


class CountWords:
    """Emits a record for each segment with at least `minimum` words."""

    def __init__(self, minimum: int = 1) -> None:
        self.minimum = minimum

    def process(self, segment: Any, context: Any) -> None:
        """The payload stays as it is."""
        words = len(bytes(segment.payload).split())
        context.count("words", words)
        if words >= self.minimum:
            context.emit("words", json.dumps({"record": "words", "words": words}).encode())
