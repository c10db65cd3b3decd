"""Checks sinks against an audit: what is lost, duplicated, corrupt or out of order, by key."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadgen.audit import Audit
from loadgen.capture import read_capture
from loadgen.errors import UsageError
from loadgen.marker import find_markers
from loadgen.receive import MAGIC, read_received

EXAMPLES = 10
_CAPTURE_MAGICS = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\n\r\r\n")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        beyond_audit: intact messages of the run that the audit does not know (it was not complete).
        lost_examples, ...: the first few, as ``key:sequence``.
        latency_seconds: from intended send to arrival, where the sink has arrival times.
    """

    run: str
    complete: bool
    sent: int = 0
    found: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupt: int = 0
    out_of_order: int = 0
    beyond_audit: int = 0
    other_runs: int = 0
    lost_examples: list[str] = field(default_factory=list)
    out_of_order_examples: list[str] = field(default_factory=list)
    latency_seconds: dict[str, float] | None = None

    def passes(self, *, allow_duplicates: bool = False) -> bool:
        """Nothing lost, corrupt or out of order, and nothing twice unless that is allowed."""
        return not (self.lost or self.corrupt or self.out_of_order or (self.duplicated and not allow_duplicates))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"sent {self.sent:,}, found {self.found:,}: lost {self.lost:,}, duplicated {self.duplicated:,}, "
            f"corrupt {self.corrupt:,}, out of order {self.out_of_order:,}"
        ]
        if self.lost_examples:
            lines.append(f"lost, as key:sequence: {', '.join(self.lost_examples)}")
        if self.out_of_order_examples:
            lines.append(f"out of order, as key:sequence: {', '.join(self.out_of_order_examples)}")
        if self.latency_seconds:
            shown = ", ".join(f"{name} {value * 1e3:.3f} ms" for name, value in self.latency_seconds.items())
            lines.append(f"latency from intended send {shown}")
        if not self.complete:
            lines.append("the audit is not complete: the generator did not end by itself")
        return "\n".join(lines)


def verify(audit: Audit, sinks: Sequence[Path]) -> Verdict:
    """Read all sinks. Order is checked within each of them, duplicates over all. Raises UsageError for a file
    that cannot be read."""
    verdict = Verdict(f"{audit.run:08x}", audit.complete, sent=sum(audit.sent))
    seen = [np.zeros(count, dtype=np.uint32) for count in audit.sent]
    latencies: list[int] = []
    for sink in sinks:
        latest: dict[int, int] = {}
        for arrival_ns, payload in payloads(sink):
            for found in find_markers(payload):
                if found.state != "intact":
                    verdict.corrupt += 1
                elif found.run != audit.run:
                    verdict.other_runs += 1
                elif found.key >= len(seen) or found.sequence >= len(seen[found.key]):
                    verdict.beyond_audit += 1
                else:
                    _note(verdict, seen[found.key], latest, found.key, found.sequence)
                    if arrival_ns:
                        latencies.append(arrival_ns - found.intended_ns)
    _conclude(verdict, seen, latencies)
    return verdict


def _note(verdict: Verdict, seen: Any, latest: dict[int, int], key: int, sequence: int) -> None:
    again = seen[sequence] > 0
    seen[sequence] += 1
    verdict.found += 1
    verdict.duplicated += bool(again)
    if again:
        return  # a repetition after a fault is a duplicate, not disorder
    if sequence < latest.get(key, -1):
        verdict.out_of_order += 1
        if len(verdict.out_of_order_examples) < EXAMPLES:
            verdict.out_of_order_examples.append(f"{key}:{sequence}")
    latest[key] = max(sequence, latest.get(key, -1))


def _conclude(verdict: Verdict, seen: Sequence[Any], latencies: list[int]) -> None:
    for key, counts in enumerate(seen):
        missing = np.flatnonzero(counts == 0)
        verdict.lost += len(missing)
        room = EXAMPLES - len(verdict.lost_examples)
        verdict.lost_examples += [f"{key}:{sequence}" for sequence in missing[:room].tolist()]
    if latencies:
        values = np.percentile(np.array(latencies), (50, 99, 100)) / 1e9
        verdict.latency_seconds = dict(zip(("p50", "p99", "max"), values.tolist(), strict=True))


def payloads(sink: Path) -> Iterator[tuple[int, bytes]]:
    """``(arrival_ns or 0, payload)`` of a sink: a file, or a folder whose files are read in order of names."""
    if sink.is_dir():
        for path in sorted(p for p in sink.rglob("*") if p.is_file()):
            yield from payloads(path)
        return
    try:
        with sink.open("rb") as file:
            start = file.read(8)
        if start.startswith(MAGIC):
            yield from read_received(sink)
        elif start[:4] in _CAPTURE_MAGICS:
            yield from ((0, packet.content) for packet in read_capture(sink))
        else:
            yield from _json_payloads(sink, compressed=start[:4] == _ZSTD_MAGIC)
    except OSError as error:
        raise UsageError(f"{sink}: cannot read: {error.strerror or error}") from None


def _json_payloads(path: Path, *, compressed: bool) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(_lines(path, compressed=compressed), 1):
        try:
            content = json.loads(line)
        except ValueError:
            raise UsageError(f"{path}:{number}: not JSON lines, a capture or a receiver's file") from None
        payload = content.get("payload") if isinstance(content, dict) else None
        if isinstance(payload, str):
            encoded = content.get("payload_encoding") == "base64"
            yield 0, base64.b64decode(payload) if encoded else payload.encode()


def _lines(path: Path, *, compressed: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        if not compressed:
            yield from file
            return
        import io

        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        yield from io.BufferedReader(reader)
