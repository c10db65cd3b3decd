"""Checks sinks against an audit: what is lost, duplicated, corrupt or out of order, by key."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadgen.audit import Audit
from loadgen.marker import MARKER_BYTES, Found, find_markers, open_end
from loadgen.sinks import Piece, SinkReader
from loadgen.target import Target

EXAMPLES = 10
LONGEST_OPEN_BYTES = MARKER_BYTES + (1 << 20)
"""The end of a piece is kept for the next one up to this; a longer message is no message of ours."""

Integers = npt.NDArray[np.int64]


@dataclass
class Verdict:
    """What a check found. Messages are counted once each, whatever else befell them.

    Attributes:
        sent: by the audit.
        found: different messages that arrived intact as results.
        lost: neither found nor dead-lettered.
        duplicated: further copies of found messages.
        corrupt: markers of this run whose message is not what was sent, or is cut off.
        out_of_order: messages that arrived, for the first time, after a later one of their key.
        dead_lettered: intact messages that came only as dead letters.
        beyond_audit: intact messages of this run that the audit does not know: a fault if it is complete.
        other_runs: messages of other runs, ignored.
        unreadable: lines and payloads in the sinks that could not be decoded.
        torn: sinks that end inside a line or frame.
        lost_examples, out_of_order_examples: the first few, as ``key:sequence`` or ``key:first-last``.
        latency_seconds: from intended send to arrival, of each first copy, where the sink has arrival times.
    """

    run: str
    complete: bool
    sent: int = 0
    found: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupt: int = 0
    out_of_order: int = 0
    dead_lettered: int = 0
    beyond_audit: int = 0
    other_runs: int = 0
    unreadable: int = 0
    torn: int = 0
    lost_examples: list[str] = field(default_factory=list)
    out_of_order_examples: list[str] = field(default_factory=list)
    latency_seconds: dict[str, float] | None = None

    def passes(self, *, allow_duplicates: bool = False, allow_dead_letters: bool = False) -> bool:
        """Whether everything arrived as it was sent, once and in order."""
        faults = [self.lost, self.corrupt, self.out_of_order, self.unreadable]
        faults += [] if allow_duplicates else [self.duplicated]
        faults += [] if allow_dead_letters else [self.dead_lettered]
        faults += [self.beyond_audit] if self.complete else []
        return not any(faults)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"sent {self.sent:,}, found {self.found:,}: lost {self.lost:,}, duplicated {self.duplicated:,}, "
            f"corrupt {self.corrupt:,}, out of order {self.out_of_order:,}"
        ]
        rest = ("dead_lettered", "beyond_audit", "other_runs", "unreadable", "torn")
        named = [f"{name.replace('_', ' ')} {getattr(self, name):,}" for name in rest if getattr(self, name)]
        lines += [", ".join(named)] if named else []
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


def verify(audit: Audit, sinks: Sequence[Path | Target], *, dictionary: bytes | None = None) -> Verdict:
    """Read all sinks. Order is checked within each of them, copies are counted over all.

    Args:
        dictionary: for payloads compressed by zstd with one.

    Raises:
        UsageError: a sink cannot be read.
    """
    verdict = Verdict(f"{audit.run:08x}", audit.complete, sent=sum(audit.sent))
    reader = SinkReader(dictionary)
    counts = [np.zeros(sent, dtype=np.int64) for sent in audit.sent]
    dead = [np.zeros(sent, dtype=bool) for sent in audit.sent]
    latencies: list[Integers] = []
    for sink in sinks:
        intake = _Intake(audit, verdict)
        for piece in reader.read(sink):
            intake.take(piece)
        intake.end()
        for key, arrivals in intake.results.items():
            _judge_order(verdict, key, arrivals, counts[key], latencies)
        for key, sequences in intake.dead.items():
            dead[key][np.frombuffer(sequences, dtype=np.int64)] = True
    verdict.unreadable, verdict.torn = reader.unreadable, reader.torn
    _conclude(verdict, counts, dead, latencies)
    return verdict


@dataclass
class _Arrivals:
    """Messages of one key in order of arrival: numbers, and latencies (-1 where unknown)."""

    sequences: array[int] = field(default_factory=lambda: array("q"))
    latencies_ns: array[int] = field(default_factory=lambda: array("q"))


class _Intake:
    """Finds the messages of one sink, also those that go on in the next piece of their stream."""

    def __init__(self, audit: Audit, verdict: Verdict) -> None:
        self._audit = audit
        self._verdict = verdict
        self._open: dict[bytes, bytes] = {}
        self.results: dict[int, _Arrivals] = {}
        self.dead: dict[int, array[int]] = {}

    def take(self, piece: Piece) -> None:
        """One piece, in order."""
        if piece.error:
            self._note(find_markers(piece.content), piece.arrival_ns, dead=True)
            return
        content = self._open.pop(piece.stream, b"") + piece.content
        found = list(find_markers(content))
        end = open_end(content, found)
        if end < len(content) and len(content) - end <= LONGEST_OPEN_BYTES:
            self._open[piece.stream] = content[end:]
            found = [marker for marker in found if marker.start < end]
        self._note(found, piece.arrival_ns)

    def end(self) -> None:
        """Nothing follows: what is still open is cut off."""
        for content in self._open.values():
            self._note(find_markers(content), 0)
        self._open.clear()

    def _note(self, markers: Iterable[Found], arrival_ns: int, *, dead: bool = False) -> None:
        verdict, sent = self._verdict, self._audit.sent
        for marker in markers:
            if marker.run != self._audit.run:
                verdict.other_runs += 1
            elif marker.state != "intact":
                verdict.corrupt += 1
            elif marker.key >= len(sent) or marker.sequence >= sent[marker.key]:
                verdict.beyond_audit += 1
            elif dead:
                self.dead.setdefault(marker.key, array("q")).append(marker.sequence)
            else:
                arrivals = self.results.setdefault(marker.key, _Arrivals())
                arrivals.sequences.append(marker.sequence)
                arrivals.latencies_ns.append(arrival_ns - marker.intended_ns if arrival_ns else -1)


def _judge_order(verdict: Verdict, key: int, arrivals: _Arrivals, counts: Integers, latencies: list[Integers]) -> None:
    """Count copies into ``counts`` and judge the order of first copies: a repetition after a fault is a duplicate,
    no disorder."""
    sequences = np.frombuffer(arrivals.sequences, dtype=np.int64)
    np.add.at(counts, sequences, 1)
    first = np.sort(np.unique(sequences, return_index=True)[1])
    latencies.append(np.frombuffer(arrivals.latencies_ns, dtype=np.int64)[first])
    ordered = sequences[first]
    late = ordered[1:][ordered[1:] < np.maximum.accumulate(ordered)[:-1]]
    verdict.out_of_order += len(late)
    room = EXAMPLES - len(verdict.out_of_order_examples)
    verdict.out_of_order_examples += [f"{key}:{sequence}" for sequence in late[:room].tolist()]


def _conclude(
    verdict: Verdict, counts: list[Integers], dead: list[npt.NDArray[np.bool_]], latencies: list[Integers]
) -> None:
    for key, copies in enumerate(counts):
        verdict.found += int((copies > 0).sum())
        verdict.duplicated += int(np.maximum(copies - 1, 0).sum())
        verdict.dead_lettered += int((dead[key] & (copies == 0)).sum())
        missing = np.flatnonzero((copies == 0) & ~dead[key])
        verdict.lost += len(missing)
        verdict.lost_examples += _ranges(key, missing, EXAMPLES - len(verdict.lost_examples))
    known = np.concatenate(latencies) if latencies else np.zeros(0, dtype=np.int64)
    known = known[known >= 0]
    if len(known):
        values = np.percentile(known, (50, 99, 100)) / 1e9
        verdict.latency_seconds = dict(zip(("p50", "p99", "max"), values.tolist(), strict=True))


def _ranges(key: int, sequences: Integers, most: int) -> list[str]:
    """Runs of consecutive numbers, as ``key:first-last``."""
    if not len(sequences) or most <= 0:
        return []
    breaks = np.flatnonzero(np.diff(sequences) > 1)
    firsts = sequences[np.concatenate([[0], breaks + 1])][:most].tolist()
    lasts = sequences[np.concatenate([breaks, [len(sequences) - 1]])][:most].tolist()
    return [f"{key}:{a}" if a == b else f"{key}:{a}-{b}" for a, b in zip(firsts, lasts, strict=True)]
