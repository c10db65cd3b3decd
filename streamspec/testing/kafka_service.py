"""The real service between two topics, under audited load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadgen.audit import read_audit
from loadgen.kafka import read_topic
from loadgen.load import run_load
from loadgen.report import Report
from loadgen.scenario import Rate
from loadgen.target import parse_target
from loadgen.verify import Verdict, verify

CONFIG = """
sources:
  in:
    type: kafka
    brokers: "{brokers}"
    topics: [{topic}]
    group: {topic}
    session_timeout: {session_timeout}
    fetch_wait: 50 ms
    commit_interval: 200 ms
stages: []
sinks:
  out:
    type: kafka
    brokers: "{brokers}"
    topic: {out}
    delivery: {delivery}
    transaction_timeout: 10 s
engine: {{workers: {workers}, arena_bytes: 64 MiB}}
"""


class Instance:
    """One process of the service."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "streamspec", "run", str(config), "--json"]
        self.log = config.with_suffix(f".{time.monotonic_ns()}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)

    def wait_for(self, event: str, timeout_seconds: float = 60.0) -> None:
        """Return once a line with this event was logged."""
        deadline = time.monotonic() + timeout_seconds
        while not any(line.get("event") == event for line in self.lines()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no {event!r} in {self.log.read_text()}"
            time.sleep(0.05)

    def lines(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def kill(self) -> None:
        """kill -9, its workers end with it."""
        self.process.kill()
        self.process.communicate()

    def kill_worker(self) -> None:
        """kill -9 of one of its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in map(int, children):
            if b"worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
                return
        raise AssertionError(f"no worker among {children}")

    def stop(self, timeout_seconds: float = 40.0) -> dict[str, Any]:
        """SIGTERM; its summary."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            out, _ = self.process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop: {self.log.read_text()}") from None
        assert self.process.returncode == 0, self.log.read_text()
        summary: dict[str, Any] = json.loads(out)
        return summary


class Passage:
    """An input topic, an output topic, instances between them, and load.

    Args:
        folder: for files.
        brokers: bootstrap servers.
        topic, out: both exist.
    """

    def __init__(
        self,
        folder: Path,
        brokers: str,
        topic: str,
        out: str,
        *,
        delivery: str = "at_least_once",
        workers: int = 1,
        session_timeout: str = "3 s",
        config: str = CONFIG,
    ) -> None:
        self._first = brokers.split(",")[0]
        self.topic, self.out = topic, out
        self._audit = folder / f"{topic}.audit"
        self._config = folder / f"{topic}.yaml"
        self._config.write_text(
            config.format(
                brokers=brokers,
                topic=topic,
                out=out,
                delivery=delivery,
                workers=workers,
                session_timeout=session_timeout,
            )
        )
        self.instances: list[Instance] = []
        self._report: list[Report] = []

    def start(self) -> Instance:
        """One more instance, when it has its partitions."""
        instance = Instance(self._config)
        self.instances.append(instance)
        instance.wait_for("partitions assigned")
        return instance

    def under_load(self, act: Callable[[], None], *, seconds: float = 6.0, rate: float = 1500, keys: int = 16) -> None:
        """Send for so long, and do ``act`` after a quarter of it."""

        def send() -> None:
            to = f"kafka://{self._first}/{self.topic}"
            self._report.append(
                run_load(
                    "mixed", to, seconds=seconds, rate=Rate(messages_per_second=rate), keys=keys, audit=self._audit
                )
            )

        sending = threading.Thread(target=send)
        sending.start()
        try:
            time.sleep(seconds / 4)
            act()
        finally:
            sending.join()

    def verdict(self, timeout_seconds: float = 60.0) -> Verdict:
        """What the output topic holds once everything arrived, or nothing more does."""
        target = parse_target(f"kafka://{self._first}/{self.out}")
        wanted = sum(read_audit(self._audit).sent)
        deadline = time.monotonic() + timeout_seconds
        while True:
            verdict = verify(read_audit(self._audit), [target])
            if verdict.found >= wanted or time.monotonic() > deadline:
                return verdict
            time.sleep(0.5)

    def records(self) -> int:
        """How many records the output topic holds for who reads what is committed."""
        return sum(1 for _ in read_topic(parse_target(f"kafka://{self._first}/{self.out}")))

    def close(self) -> None:
        """End whatever still runs."""
        for instance in self.instances:
            if instance.process.poll() is None:
                instance.kill()
