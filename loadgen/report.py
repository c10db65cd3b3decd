"""The report of a run, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Lateness:
    """How long after their intended times messages were taken by the kernel, in seconds."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass
class Report:
    """What a run did. Rates are over :attr:`seconds`, from the start to the last message.

    Attributes:
        messages: taken by the kernel.
        bytes: of these, with markers, without framing.
        intended_messages_per_second: what the schedule asked for up to the last message that was due; None when
            unpaced.
        lateness_seconds: None when unpaced, where nothing is late.
        blocked_sends: sends that had to wait for room in the kernel.
        refused_sends: datagrams answered by "port unreachable", and sent again.
        unsent_messages: due and numbered, but not taken by the kernel when the run ended.
        stopped: whether the run was cut short by a stop.
        error: why it ended early, empty if it did not.
        skipped: replay only: packets that were not sent, by reason.
    """

    run: str
    scenario: str
    seed: int | None
    target: str
    keys: int
    seconds: float = 0.0
    messages: int = 0
    bytes: int = 0
    messages_per_second: float = 0.0
    bytes_per_second: float = 0.0
    intended_messages_per_second: float | None = None
    lateness_seconds: Lateness | None = None
    blocked_sends: int = 0
    refused_sends: int = 0
    unsent_messages: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    audit: str | None = None
    stopped: bool = False
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"sent {self.messages:,} messages, {self.bytes / 1e6:,.1f} MB to {self.target} in {self.seconds:.2f} s "
            f"on {self.keys} keys",
            f"rate {self.messages_per_second:,.0f} messages/s, {self.bytes_per_second / 1e6:,.1f} MB/s",
        ]
        if self.intended_messages_per_second is not None:
            lines[1] += f" (intended {self.intended_messages_per_second:,.0f} messages/s)"
        if self.lateness_seconds is not None:
            late = self.lateness_seconds
            lines.append(f"late p50 {late.p50 * 1e3:.3f} ms, p99 {late.p99 * 1e3:.3f} ms, max {late.max * 1e3:.3f} ms")
        for count, what in (
            (self.blocked_sends, "sends had to wait"),
            (self.refused_sends, "datagrams were refused and sent again"),
            (self.unsent_messages, "messages were due and could not be sent"),
        ):
            if count:
                lines.append(f"{count:,} {what}")
        if self.kinds:
            lines.append("kinds " + ", ".join(f"{name} {count:,}" for name, count in self.kinds.items()))
        if self.skipped:
            lines.append("skipped " + ", ".join(f"{reason} {count:,}" for reason, count in self.skipped.items()))
        if self.stopped:
            lines.append("stopped before its end")
        if self.error:
            lines.append(f"error: {self.error}")
        return "\n".join(lines)
