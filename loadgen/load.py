"""One run of load, as a function: used by the commands and by programs that want load beside other work."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadgen.audit import Audit
from loadgen.batch import Marking, marker_bytes
from loadgen.clock import Clock, SystemClock
from loadgen.driver import Driver
from loadgen.errors import Unreachable, UsageError
from loadgen.kafka import KafkaSender
from loadgen.meter import Meter
from loadgen.pool import scenario_pool
from loadgen.report import Lateness, Report
from loadgen.scenario import Rate, Scenario, load_scenario
from loadgen.schedule import Block, scenario_blocks
from loadgen.target import Target, parse_target
from loadgen.tcp import TcpSender
from loadgen.udp import UdpSender

FINISH_SECONDS = 30.0
STOP_SECONDS = 2.0
"""After a stop, how long frames that were begun may take to be written."""
Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Delivery:
    """How a run sends, whatever it sends.

    Attributes:
        target: where to.
        paced: false: as fast as the destination takes it.
        audit: file for the audit; messages then carry markers.
        run: number of the run in the markers; None for a random one.
        tls: for tcp, the TLS context.
        stopped: asked often; true ends the run soon.
        on_progress: called about every second with counts.
        finish_seconds: how long to go on writing what is left at the end (TCP).
    """

    target: Target
    paced: bool = True
    audit: Path | None = None
    run: int | None = None
    tls: ssl.SSLContext | None = None
    stopped: Callable[[], bool] = field(default=lambda: False)
    on_progress: Progress | None = None
    finish_seconds: float = FINISH_SECONDS
    clock: Clock = field(default_factory=SystemClock)

    def __post_init__(self) -> None:
        if self.tls is not None and self.target.scheme != "tcp":
            raise UsageError(f"{self.target}: TLS is for tcp")

    @property
    def marker_bytes(self) -> int:
        """What each message carries beside its body."""
        return marker_bytes(None if self.audit is None else _NO_MARKING)


_NO_MARKING = Marking(0, np.zeros(0, dtype=np.int64))


def run_load(
    scenario: Scenario | str,
    to: Target | str,
    *,
    seconds: float | None = None,
    rate: Rate | None = None,
    keys: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> Report:
    """Send a scenario and report. Blocks; in asyncio use ``await asyncio.to_thread(run_load, ...)``.

    Args:
        scenario: a scenario, the name of one that comes along, or a file.
        to: target, or its URL.
        seconds: scales all phases to this length in sum.
        rate: replaces the rate of every phase.
        keys: replaces the number of keys of every phase.
        seed: replaces the scenario's.
        options: fields of :class:`Delivery`: ``paced``, ``audit``, ``tls``, ``stopped``, ``on_progress``, ...

    Raises:
        ScenarioError: the scenario is wrong.
        UsageError: the target is wrong.
        Unreachable: nothing could be sent at all. A destination that goes away later ends the run with the report's
            ``error`` set.
    """
    target = parse_target(to) if isinstance(to, str) else to
    loaded = load_scenario(scenario) if isinstance(scenario, str) else scenario
    return send_scenario(
        loaded.adapted(seconds=seconds, rate=rate, keys=keys, seed=seed), Delivery(target=target, **options)
    )


def send_scenario(scenario: Scenario, delivery: Delivery) -> Report:
    """Make the pool, send all phases and report."""
    target, marker = delivery.target, delivery.marker_bytes
    pool = scenario_pool(scenario, marker_bytes=marker, largest_bytes=target.largest_bytes, lines=target.lines)
    runs: list[Run] = []

    def elapsed_ns() -> int:
        return runs[0].driver.elapsed_ns()

    blocks = scenario_blocks(scenario, pool, marker_bytes=marker, elapsed_ns=None if delivery.paced else elapsed_ns)
    runs.append(Run(blocks, delivery, keys=scenario.key_count, name=scenario.name, seed=scenario.seed))
    return runs[0].send()


class Run:
    """Wires a driver and a sender for one run over any blocks.

    Args:
        blocks: what to send, in order of time.
        delivery: how.
        keys: sockets or connections to open.
        name, seed: for the report.
    """

    def __init__(
        self, blocks: Iterator[Block], delivery: Delivery, *, keys: int, name: str, seed: int | None = None
    ) -> None:
        self._delivery = delivery
        self._number = delivery.run if delivery.run is not None else int.from_bytes(os.urandom(4), "big")
        self._meter = Meter()
        self._report = Report(f"{self._number:08x}", name, seed, str(delivery.target), keys)
        self._started_ns = 0
        marking = None if delivery.audit is None else Marking(self._number, np.zeros(keys, dtype=np.int64))
        self._sender = _sender(delivery, keys, self._meter, marking)
        self.driver = Driver(
            blocks,
            self._sender,
            delivery.clock,
            stopped=delivery.stopped,
            on_progress=self._progress,
            paced=delivery.paced,
        )

    def send(self) -> Report:
        """Send everything; the report says what came of it, also when the destination went away."""
        self._started_ns = self._delivery.clock.time_ns()
        self._audit(complete=False)
        try:
            self.driver.run()
            longest = self._delivery.finish_seconds
            self._sender.finish(min(longest, STOP_SECONDS) if self._delivery.stopped() else longest)
        except Unreachable as error:
            if not self._meter.messages:
                raise
            self._report.error = str(error)
        finally:
            self._sender.close()
            self._audit(complete=True)
        return self._filled()

    def _progress(self) -> None:
        self._audit(complete=False)
        if self._delivery.on_progress is not None:
            seconds = self.driver.elapsed_ns() / 1e9
            self._delivery.on_progress(
                {
                    "seconds": round(seconds, 3),
                    "phase": self.driver.phase,
                    "messages": self._meter.messages,
                    "bytes": self._meter.bytes,
                    "messages_per_second": round(self._meter.messages / seconds, 1),
                    "bytes_per_second": round(self._meter.bytes / seconds, 1),
                    "lateness_p99_seconds": self._meter.lateness_seconds(0.99),
                }
            )

    def _audit(self, *, complete: bool) -> None:
        if self._delivery.audit is not None:
            sent = self._sender.sent.tolist()
            target, name = str(self._delivery.target), self._report.scenario
            Audit(self._number, sent, complete, self._started_ns, target, name).write(self._delivery.audit)

    def _filled(self) -> Report:
        report, meter, driver = self._report, self._meter, self.driver
        report.seconds = meter.last_sent_ns / 1e9  # without the time that ending the connections took
        report.messages, report.bytes = meter.messages, meter.bytes
        report.messages_per_second = meter.messages / report.seconds if report.seconds else 0.0
        report.bytes_per_second = meter.bytes / report.seconds if report.seconds else 0.0
        if self._delivery.paced:
            report.intended_messages_per_second = driver.taken_messages / max(driver.last_due_ns / 1e9, 1e-9)
            report.lateness_seconds = Lateness(*(meter.lateness_seconds(share) for share in (0.5, 0.99, 1.0)))
        report.blocked_sends, report.refused_sends = meter.blocked, meter.refused
        report.unsent_messages = max(driver.taken_messages - meter.messages, 0)
        report.kinds = driver.kind_messages
        report.audit = None if self._delivery.audit is None else str(self._delivery.audit)
        report.stopped = self._delivery.stopped()
        return report


def _sender(
    delivery: Delivery, keys: int, meter: Meter, marking: Marking | None
) -> TcpSender | UdpSender | KafkaSender:
    target, clock = delivery.target, delivery.clock
    if target.scheme == "kafka":
        return KafkaSender(target, keys, meter, clock, marking=marking)
    if target.scheme == "tcp":
        return TcpSender(target, keys, meter, clock, marking=marking, tls=delivery.tls)
    return UdpSender(target, keys, meter, clock, marking=marking, stopped=delivery.stopped)
