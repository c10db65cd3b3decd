"""Who takes part in job A, and how each is started and watched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.proof.job_a_peers import Job
from streamspec.testing.kafka import free_ports

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".cache" / "bench" / "peers-kafka"
PINNED = Path(__file__).with_name("job_a_peers.txt")
CORES = len(os.sched_getaffinity(0))
SAMPLE_SECONDS = 0.1
MEMORY_EVERY = 5
"""Samples between two readings of memory, which cost more."""

SERVICE = """
sources:
  in:
    type: kafka
    brokers: "{brokers}"
    topics: [{topic}]
    group: group-{out}
    latency_from: production
{source}
stages:
  - {{type: map, function: "benchmarks.proof.job_a_work:{stage}"}}
sinks:
  out: {{type: kafka, brokers: "{brokers}", topic: {out}}}
engine: {{workers: {workers}}}
{more}
"""
LANES = """
profiler: {enabled: false}
lanes:
  - {name: light, match: {max_bytes: 16 KiB}, workers: 1}
  - {name: heavy, workers: 1, nice: 2}
"""


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        pass_number: 1: the work function record by record; 2: its best documented idiom.
        peer: module in :mod:`benchmarks.proof.job_a_peers`; empty for the service.
        package: whose version is told.
        own_processes: the peer's command starts its processes itself.
    """

    name: str
    pass_number: int
    peer: str = ""
    package: str = "streamspec"
    processes: int = 1
    own_processes: bool = False


def contenders() -> list[Contender]:
    """All of them, in the order of the report."""
    found = [Contender("streamspec", 1), Contender("streamspec", 2)]
    for name, peer, package in (
        ("confluent-kafka", "confluent_loop", "confluent-kafka"),
        ("aiokafka", "aiokafka_loop", "aiokafka"),
        ("quixstreams", "quix", "quixstreams"),
        ("bytewax", "bytewax_flow", "bytewax"),
        ("faststream", "faststream_app", "faststream"),
        ("pathway", "pathway_graph", "pathway"),
    ):
        own = peer == "pathway_graph"
        found.append(Contender(f"{name} x1", 1, peer, package))
        found.append(Contender(f"{name} x{CORES}", 1, peer, package, CORES, own))
        if peer != "quix":
            found.append(Contender(f"{name} x{CORES}", 2, peer, package, CORES, own))
    return found


# -- the peers' environment -----------------------------------------------------------------
def prepare_environment() -> dict[str, str]:
    """Make the environment of the peers where it is missing; returns why a package is not there, by package."""
    stamp = ENVIRONMENT / "installed.json"
    pinned = PINNED.read_text()
    if stamp.is_file():
        told = json.loads(stamp.read_text())
        if told["pinned"] == pinned:
            missing: dict[str, str] = told["missing"]
            return missing
    print("installing the peers (once)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    lines = [line.strip() for line in pinned.splitlines() if line.strip() and not line.startswith("#")]
    reasons: dict[str, str] = {}
    constraints = ENVIRONMENT / "constraints.txt"
    constraints.write_text("\n".join(re.sub(r"\[.*\]", "", line) for line in lines))
    for line in lines:
        command = [str(ENVIRONMENT / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "-c"]
        done = subprocess.run([*command, str(constraints), line], capture_output=True, text=True, check=False)
        if done.returncode:
            said = [text for text in (done.stderr + done.stdout).splitlines() if "ERROR" in text]
            reasons[re.split(r"[\[=]", line)[0]] = " / ".join(said)[-300:] or "pip failed"
    stamp.write_text(json.dumps({"pinned": pinned, "missing": reasons}))
    return reasons


def versions(contender: Contender) -> dict[str, str]:
    """Of the package, Python and what the work function uses."""
    code = "import importlib.metadata as m,json,sys;print(json.dumps({n:m.version(n) for n in sys.argv[1:]}))"
    names = [contender.package, "zstandard", "hyperscan", "numba"]
    done = subprocess.run([_python(contender), "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return {"python": sys.version.split()[0], **found}


def _python(contender: Contender) -> str:
    return str(ENVIRONMENT / "bin" / "python") if contender.peer else sys.executable


# -- running --------------------------------------------------------------------------------
def configuration(contender: Contender, job: Job) -> str:
    """What a contender is given, beside the code: a hash of it identifies the run."""
    if contender.peer:
        return json.dumps(asdict(job) | {"peer": contender.peer})
    best = contender.pass_number == 2
    return SERVICE.format(
        brokers=job.brokers,
        topic=job.topic,
        out=job.out,
        workers=CORES,
        stage="SegmentStage" if best else "Stage",
        source="    gather_bytes: 16 KiB" if best else "",
        more=LANES if best else "",
    )


def _commands(contender: Contender, job: Job, folder: Path) -> list[list[str]]:
    if not contender.peer:
        config = folder / f"{job.out}.yaml"
        config.write_text(configuration(contender, job))
        return [[sys.executable, "-m", "streamspec", "run", str(config)]]
    module = f"benchmarks.proof.job_a_peers.{contender.peer}"
    count = 1 if contender.own_processes else contender.processes
    return [
        [_python(contender), "-W", "ignore", "-m", module, json.dumps(asdict(job) | {"index": index})]
        for index in range(count)
    ]


def job_for(contender: Contender, brokers: str, topic: str, out: str) -> Job:
    """Of the first process."""
    ports = tuple(free_ports(contender.processes)) if contender.processes > 1 else ()
    return Job(brokers, topic, out, contender.pass_number == 2, 0, contender.processes, ports)


@dataclass
class Usage:
    """What a contender's process trees used, sampled.

    Attributes:
        moments: seconds since 1970.
        cpu_seconds: so far, at each moment.
        peak_bytes: of memory; shared pages are counted once (proportional set size).
    """

    moments: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def cpu_between(self, start: float, end: float) -> float:
        """CPU seconds from one moment to another."""
        first, last = np.interp([start, end], self.moments, self.cpu_seconds)
        return float(last - first)


class Running:
    """Processes of a contender, and what they use."""

    def __init__(self, contender: Contender, job: Job, folder: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "JOB"} | {"PYTHONPATH": str(ROOT)}
        self.usage = Usage()
        self.started = time.time()
        self.log = folder / f"{job.out}.log"
        with self.log.open("wb") as log:
            self._processes = [
                subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment, start_new_session=True)
                for command in _commands(contender, job, folder)
            ]
        self._ended = threading.Event()
        self._seen: dict[tuple[int, float], float] = {}
        self._sampling = threading.Thread(target=self._sample)
        self._sampling.start()

    def dead(self) -> str:
        """What a process said that ended by itself; empty while all run."""
        if all(process.poll() is None for process in self._processes):
            return ""
        return self.log.read_text(errors="replace")[-1500:] or "ended without a word"

    def _sample(self) -> None:
        turn = 0
        while not self._ended.wait(SAMPLE_SECONDS):
            memory = 0
            for process in self._tree():
                try:
                    times = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = times.user + times.system
                    if turn % MEMORY_EVERY == 0:
                        memory += _proportional_bytes(process.pid)
                except psutil.Error:
                    continue
            self.usage.moments.append(time.time())
            self.usage.cpu_seconds.append(sum(self._seen.values()))
            self.usage.peak_bytes = max(self.usage.peak_bytes, memory)
            turn += 1

    def _tree(self) -> Iterator[psutil.Process]:
        for process in self._processes:
            try:
                root = psutil.Process(process.pid)
                yield root
                yield from root.children(recursive=True)
            except psutil.Error:
                continue

    def stop(self) -> None:
        """End them all."""
        self._ended.set()
        self._sampling.join()
        everyone = list(self._tree())
        for process in self._processes:
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 5.0
        for process in self._processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                _signal_group(process.pid, signal.SIGKILL)
                process.wait()
        for each in everyone:
            try:
                each.kill()
            except psutil.Error:
                continue


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


@contextmanager
def running(contender: Contender, job: Job, folder: Path) -> Iterator[Running]:
    """A contender that is ended behind the block."""
    made = Running(contender, job, folder)
    try:
        yield made
    finally:
        made.stop()


def select(names: Sequence[str]) -> list[Contender]:
    """Those whose name, with or without ``x1``, ``x2`` or ``:PASS``, is among ``names``; all for no names."""
    found = []
    for contender in contenders():
        known = {contender.name, contender.name.split()[0]}
        known |= {f"{name}:{contender.pass_number}" for name in known}
        if not names or known & set(names):
            found.append(contender)
    return found
