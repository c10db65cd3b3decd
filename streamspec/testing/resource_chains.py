"""Chains that ask for resources, for workers in tests of grants."""

from __future__ import annotations

import json
from typing import Any

from streamspec.core.interfaces import Segment, Stage, StageContext
from streamspec.core.resources import Grant, Refusal, ResourceRequest


class Asking:
    """Declares what its settings say and does what the payload, a JSON object, says: ``ask`` (arguments of
    ``context.request``), ``release`` (position of a grant), or nothing. Its result is what it holds now.

    Args:
        declared: arguments of ``ResourceRequest.of``.
        obeys: acts on changes; else its ``on_change`` raises.
    """

    def __init__(self, declared: dict[str, Any], *, obeys: bool = True) -> None:
        self.resources = ResourceRequest.of(**declared)
        self._declared: Grant | Refusal | None = None
        self._held: list[Grant] = []
        self._told: list[str] = []
        self._obeys = obeys

    def on_resources(self, grant: Grant | Refusal) -> None:
        """Keep it."""
        self._declared = grant
        self._told.append(grant.reason)

    def _changed(self, grant: Grant) -> None:
        if not self._obeys:
            raise RuntimeError("this stage keeps what it has")
        self._told.append(grant.reason)

    def process(self, segment: Segment, context: StageContext) -> None:
        """See the class."""
        order = json.loads(bytes(segment.payload))
        result: dict[str, Any] = {}
        if "ask" in order:
            answer = context.request(**order["ask"], on_change=self._changed)
            if isinstance(answer, Grant):
                self._held.append(answer)
            else:
                result = {"refused": answer.reason, "available": answer.available.amounts()}
        if "release" in order:
            self._held[order["release"]].release()
        result["declared"] = self._declared.amounts.amounts() if isinstance(self._declared, Grant) else None
        result["held"] = [grant.amounts.amounts() for grant in self._held]
        result["places"] = [grant.place for grant in self._held]
        result["told"] = self._told
        segment.payload = memoryview(json.dumps(result).encode())


def asking(stages: list[dict[str, Any]]) -> list[tuple[str, Stage]]:
    """One stage ``asking``; ``stages[0]`` are its arguments."""
    return [("asking", Asking(**(stages[0] if stages else {"declared": {}})))]
