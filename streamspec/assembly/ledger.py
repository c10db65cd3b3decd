"""The ledger: every decision of the controller, kept in the database by a thread that the stream never waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog

from streamspec.core.control import Decision, Settled, document
from streamspec.profiles.database import ProfileDatabase
from streamspec.profiles.refusals import DatabaseUnusable
from streamspec.telemetry.decisions import DecisionLog

_log = structlog.get_logger("streamspec.ledger")

DECISION, VERDICT = "decision", "verdict"
"""Kinds of rows; a verdict says what came of an earlier decision."""
BACKLOG = 1024


class Ledger:
    """Called by the controller with each decision; keeps the last ones in memory and all in the database.

    A refusal that only repeats the one before it is not written again.

    Args:
        log: what people read of a running service.
        database: None keeps nothing beyond ``log``.

    Attributes:
        log: what people read.
        unwritten: rows that the database did not take.
    """

    def __init__(self, log: DecisionLog, database: ProfileDatabase | None) -> None:
        self.unwritten = 0
        self.log = log
        self._database = database
        self._rows: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._refused_before: frozenset[tuple[str, str, str]] = frozenset()
        self._thread: threading.Thread | None = None
        if database is not None:
            self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
            self._thread.start()

    def __call__(self, decision: Decision) -> None:
        """Take in one decision and the verdicts on earlier ones."""
        time_ns = round(decision.at_seconds * 1e9)
        for settled in decision.settled:
            self.log.settle(settled)
            self._keep({"time_ns": time_ns, "kind": VERDICT, **_verdict(settled)})
        refused = frozenset((r.proposal.knob, r.proposal.lane, r.rule) for r in decision.refused)
        if not decision.done and refused <= self._refused_before:
            self.log.repeat(decision)
            return
        self._refused_before = refused
        view = self.log.add(decision)
        self._keep({"time_ns": time_ns, "kind": DECISION, "view": asdict(view), "decision": document(decision)})

    def close(self) -> None:
        """Write what waits, and end the thread."""
        if self._thread is not None:
            self._rows.put(None)
            self._thread.join(timeout=10.0)
            self._thread = None

    def _keep(self, row: Mapping[str, Any]) -> None:
        if self._thread is not None and self._rows.qsize() < BACKLOG:
            self._rows.put(row)
        elif self._thread is not None:
            self.unwritten += 1

    def _write(self) -> None:
        assert self._database is not None
        while (row := self._rows.get()) is not None:
            rows = [row]
            ending = False
            while not self._rows.empty():
                following = self._rows.get()
                if following is None:
                    ending = True
                    break
                rows.append(following)
            try:
                self._database.store_decisions(rows)
            except DatabaseUnusable as error:
                self.unwritten += len(rows)
                _log.warning("decisions not written", count=len(rows), reason=str(error))
            if ending:
                return


def _verdict(settled: Settled) -> dict[str, Any]:
    return {"number": settled.number, "verdict": settled.verdict, "why": settled.why} | {
        "measured": document(settled.measured)
    }
