"""The worker's half of the grants: asks, waits for the answer, and tells stages when a grant changes."""

from __future__ import annotations

import select
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from streamspec.core.interfaces import BatchedStage, ResourcefulStage, SlotMemory, Stage
from streamspec.core.resources import Grant, Refusal, ResourceRequest
from streamspec.engine import wire

ANSWER_SECONDS = 2.0
"""A request without an answer for so long is refused; the answer comes within a turn of the event loop."""


class GrantLine:
    """Everything that a worker receives passes here, because a batch may arrive before an answer does.

    Args:
        connection: blocking ``SOCK_SEQPACKET`` to the dispatcher.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: deque[bytes] = deque()
        self._held: dict[int, Grant] = {}
        self._asked = 0
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def receive(self) -> bytes:
        """The next message that is not about grants; empty when the dispatcher is gone."""
        while True:
            message = self._waiting.popleft() if self._waiting else self._connection.recv(wire.MESSAGE_BYTES)
            if not message or wire.kind_of(message) != wire.CONTROL:
                return message
            content = wire.decode_control(message).get("resources")
            if content is None:
                return message
            self._told(content)

    def request(
        self, stage: str, request: ResourceRequest, on_change: Callable[[Grant], None] | None = None
    ) -> Grant | Refusal:
        """Ask and wait. ``stage`` is for the books."""
        self._asked += 1
        self._say({"ask": self._asked, "stage": stage, "amounts": request.amounts()})
        answer = self._answer(self._asked)
        if answer is None:
            return Refusal(f"no answer within {ANSWER_SECONDS:g} s")
        if "refused" in answer:
            return Refusal(answer["refused"], ResourceRequest.from_amounts(answer["available"]))
        amounts = ResourceRequest.from_amounts(answer["amounts"])
        grant = Grant(answer["grant"], amounts, answer["place"], on_change, give_back=self._release)
        self._held[grant.id] = grant
        return grant

    def declare(self, stages: Sequence[tuple[str, Stage]]) -> None:
        """Ask for what stages state, and tell each what it has."""
        for name, stage in stages:
            if isinstance(stage, ResourcefulStage):
                wanted = stage.resources
                answer = (
                    self.request(name, wanted, stage.on_resources) if wanted.amounts() else Refusal("nothing asked")
                )
                stage.on_resources(answer)

    def attach(self, stages: Sequence[tuple[str, Stage]], slots_in: SlotMemory) -> None:
        """Show the memory of all segments to stages that work on many at once, and let them ask for a device."""
        for name, stage in stages:
            if isinstance(stage, BatchedStage) and stage.batched:
                stage.attach(slots_in, partial(self.request, name))

    def _answer(self, number: int) -> dict[str, Any] | None:
        until = time.monotonic() + ANSWER_SECONDS
        while (left := until - time.monotonic()) > 0:
            if not self._poll.poll(left * 1000):
                break
            message = self._connection.recv(wire.MESSAGE_BYTES)
            if not message:
                self._waiting.append(message)
                break
            content = wire.decode_control(message).get("resources") if wire.kind_of(message) == wire.CONTROL else None
            if content is not None and content.get("answer") == number:
                return dict(content)
            self._waiting.append(message)
        return None

    def _told(self, content: dict[str, Any]) -> None:
        if "answer" in content:  # too late: nobody waits for it
            if "grant" in content:
                self._say({"release": content["grant"]})
            return
        grant = self._held.get(content["change"])
        if grant is None:
            return
        grant.amounts, grant.reason = ResourceRequest.from_amounts(content["amounts"]), content["reason"]
        try:
            if grant.on_change is not None:
                grant.on_change(grant)
        except Exception:
            traceback.print_exc()  # and what it still uses stays on the books
            return
        if grant.id in self._held:  # the stage may have given it back instead
            self._say({"changed": grant.id, "amounts": grant.amounts.amounts()})

    def _release(self, grant: Grant) -> None:
        if self._held.pop(grant.id, None) is not None:
            self._say({"release": grant.id})

    def _say(self, content: dict[str, Any]) -> None:
        self._connection.send(wire.encode_control({"resources": content}))
