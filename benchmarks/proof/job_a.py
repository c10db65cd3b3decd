"""Job A: Kafka -> parse, features, signatures, zstd -> Kafka, beside what else does that in Python.

``python -m benchmarks.proof.job_a [--repeats 5] [--quick] [--only PART] [--contender NAME ...]``

- ``saturation``: a filled topic is drained; rates and CPU between a quarter and nine tenths of the output.
- ``load``: open loop at 25, 50, 75 and 90 % of each one's own capacity, the service also at 90 % of the best peer's.
  Latency counts from the moment a record was due to the broker's stamp on its result.
- ``phases``: calm, burst of four times that, bigger records, one key with most of them, a slow sink, calm.

Unless they are named, only the forms that the documentations advise take part in the last two (in a quick run the
service and the best peer).

All call :mod:`benchmarks.proof.job_a_work`: in pass 1 record by record, in pass 2 (``batches``) as their own
documentation advises for throughput. Names of contenders: ``streamspec``, ``aiokafka``, ``aiokafka:2`` (its pass 2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.proof import harness
from benchmarks.proof.job_a_cluster import Cluster, Sent, Step
from benchmarks.proof.job_a_contenders import (
    CORES,
    Contender,
    Running,
    configuration,
    job_for,
    prepare_environment,
    running,
    select,
    versions,
)
from benchmarks.proof.job_a_judging import judge, load_measures, saturation_measures
from benchmarks.proof.job_a_traffic import Traffic

PARTS = ("saturation", "load", "phases")
START_SECONDS = 60.0
POLL_SECONDS = 0.2
SETTLE_SECONDS = 0.5
"""Without growth, once there are as many results as records: what is repeated may hide what is missing."""
QUIET_SECONDS = 4.0
"""Without a new result for so long after a load, what is missing is lost."""
SHARES = (0.25, 0.5, 0.75, 0.9)
CALM_SHARE = 0.3
"""Of its capacity in the calm phases, so that the burst is more than it can do."""
BURST = 4.0
BIGGER_HEAVY_SHARE = 0.4
ONE_KEY_SHARE = 0.8
SLOW_SINK_RATIO = 0.5
OUTPUT_RATIO = 0.6
"""About how many bytes come out for one that goes in."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        records: in the topic that is drained.
        longest_seconds: of a drain, after its first result; then it is stopped, and what it did counts.
        step_seconds: of each load.
    """

    records: int
    longest_seconds: float
    step_seconds: float

    @classmethod
    def of(cls, quick: bool) -> Sizes:
        return cls(12_000, 5.0, 2.5) if quick else cls(36_000, 8.0, 8.0)


@dataclass
class Bench:
    """The cluster, the traffic and where lines go."""

    cluster: Cluster
    folder: Path
    sizes: Sizes
    quick: bool
    lines: list[Line]

    def note(self, contender: Contender, part: str, phase: str, seed: int, repeat: int, measures: Line) -> None:
        """One result."""
        line = _line(contender, part, phase, self.quick, seed, repeat)
        self.lines.append(line | {"measures": measures})
        shown = {name: float(f"{v:.4g}") if isinstance(v, float) else v for name, v in measures.items()}
        print(f"A {line['contender']} #{repeat} {phase}: {json.dumps(shown)}", flush=True)

    def refuse(self, contender: Contender, part: str, seed: int, repeat: int, reason: str) -> None:
        """It did not run."""
        line = _line(contender, part, part, self.quick, seed, repeat)
        self.lines.append(line | {"status": "not_run", "reason": reason, "not_run": reason})
        print(f"A {line['contender']} #{repeat} {part}: not run: {reason}", flush=True)


def shown_name(contender: Contender) -> str:
    """As in tables."""
    return contender.name + (", batches" if contender.pass_number == 2 else "")


@cache
def _versions(contender: Contender) -> dict[str, str]:
    return versions(contender)


def _line(contender: Contender, part: str, phase: str, quick: bool, seed: int, repeat: int) -> Line:
    job = job_for(contender, "", "", "")
    settings = {"configuration": configuration(contender, job), "pass": contender.pass_number}
    hashed = harness.configuration_hash(settings | {"quick": quick}) if not job.ports else ""
    if job.ports:  # they differ from run to run
        hashed = harness.configuration_hash({"peer": contender.peer, "pass": contender.pass_number, "quick": quick})
    return {
        "job": "A",
        "contender": shown_name(contender),
        "pass": contender.pass_number,
        "part": part,
        "phase": phase,
        "repeat": repeat,
        "seed": seed,
        "quick": quick,
        "status": "measured",
        "reason": "",
        "host": harness.host(),
        "versions": {"streamspec": harness.own_version(), "contender": _known_version(contender)},
        "settings": {"pass": contender.pass_number, "processes": contender.processes if contender.peer else CORES},
        "configuration": hashed,
        "not_run": "",
        "measures": {},
    }


def _known_version(contender: Contender) -> str:
    try:
        found = _versions(contender)
    except Exception:
        return ""
    return ", ".join(f"{name} {version}" for name, version in found.items())


# -- saturation -----------------------------------------------------------------------------
def drain(bench: Bench, contender: Contender, topic: str, traffic: Traffic) -> Line:
    """One contender drains the topic; raises RuntimeError when it ends or gives nothing."""
    count, out = bench.sizes.records, bench.cluster.make(appended=True)
    with running(contender, job_for(contender, bench.cluster.brokers, topic, out), bench.folder) as run:
        whole = _until_drained(bench, run, out, count)
        results = bench.cluster.read(out) if whole else None
    results = results or bench.cluster.read(out)
    bench.cluster.drop(out)
    bodies = [traffic.body_of(number) for number in range(count)]
    keys = [traffic.bodies[body].key for body in bodies]
    measures = saturation_measures(results, run, traffic, count)
    return measures | judge(results, traffic, bodies, keys, whole).measures()


def _until_drained(bench: Bench, run: Running, out: str, count: int) -> bool:
    """Wait until the output holds all and grows no more, or for as long as a drain may take; returns whether it is
    all."""
    deadline = time.monotonic() + START_SECONDS
    first = grown = 0.0
    before = -1
    while True:
        done = bench.cluster.size(out)
        if done != before:
            before, grown = done, time.monotonic()
        if done >= count and time.monotonic() - grown > SETTLE_SECONDS:
            return True
        if done and not first:
            first = time.monotonic()
        if first and done < count and time.monotonic() - first > bench.sizes.longest_seconds:
            return False
        _check(run, not first and time.monotonic() > deadline)
        time.sleep(POLL_SECONDS)


def _check(run: Running, too_late: bool) -> None:
    if (said := run.dead()) or too_late:
        lines = [line for line in (said or run.log.read_text(errors="replace")).splitlines() if line.strip()]
        raise RuntimeError(f"{'ended' if said else 'no result'}: {' / '.join(lines[-3:])[-400:]}")


def saturation(bench: Bench, taking_part: Sequence[Contender], repeats: int) -> None:
    """All drain the same topic in turn; each repeat has other traffic and begins with another contender."""
    for repeat in range(repeats):
        traffic = Traffic(seed=repeat + 1)
        topic = bench.cluster.make()
        bench.cluster.fill(topic, traffic, bench.sizes.records)
        _ = traffic.expected
        for contender in _turned(taking_part, repeat):
            try:
                measures = drain(bench, contender, topic, traffic)
            except RuntimeError as error:
                bench.refuse(contender, "saturation", traffic.seed, repeat, str(error))
            else:
                bench.note(contender, "saturation", "saturation", traffic.seed, repeat, measures)
        bench.cluster.drop(topic)


def _turned(taking_part: Sequence[Contender], repeat: int) -> list[Contender]:
    shift = repeat * 5 % max(len(taking_part), 1)
    return [*taking_part[shift:], *taking_part[:shift]]


def capacities(bench: Bench) -> dict[tuple[str, int], float]:
    """Median rates at saturation by name and pass: of this run, else of the lines of an earlier one."""
    found: dict[tuple[str, int], list[float]] = {}
    for line in [*_earlier(bench.quick), *bench.lines]:
        if line["part"] == "saturation" and line["measures"].get("correct"):
            place = (line["contender"], line["pass"])
            found.setdefault(place, []).append(line["measures"]["records_per_second"])
    return {place: statistics.median(rates) for place, rates in found.items()}


# -- load -----------------------------------------------------------------------------------
def under_load(
    bench: Bench, contender: Contender, traffic: Traffic, groups: Sequence[Sequence[Step]]
) -> tuple[list[Line], Line]:
    """Groups of steps, one after the other, each drained before the next. Measures by step, and of all together."""
    topic, out = bench.cluster.make(), bench.cluster.make(appended=True)
    sent = Sent()
    warm = Step("warm", 1.0, 200.0)
    with running(contender, job_for(contender, bench.cluster.brokers, topic, out), bench.folder) as run:
        _send_and_wait(bench, run, topic, out, traffic, [warm], sent)
        for group in groups:
            _send_and_wait(bench, run, topic, out, traffic, list(group), sent)
        results = bench.cluster.read(out)
    bench.cluster.drop(topic, out)
    steps = [step for group in groups for step in group]
    made = load_measures(results, sent, steps, traffic, run, first_step=1)
    return made, judge(results, traffic, sent.bodies, sent.keys, True).measures()


def _send_and_wait(
    bench: Bench, run: Running, topic: str, out: str, traffic: Traffic, steps: list[Step], sent: Sent
) -> None:
    before = len(sent.bodies)
    bench.cluster.send(topic, traffic, steps, before, sent)
    done = bench.cluster.size(out)
    since = time.monotonic()
    patience = QUIET_SECONDS if before else START_SECONDS
    while done < len(sent.bodies) and time.monotonic() - since < patience:
        _check(run, False)
        time.sleep(POLL_SECONDS)
        now = bench.cluster.size(out)
        if now > done:
            done, since = now, time.monotonic()
            patience = QUIET_SECONDS if now > before + 1 else patience
    _check(run, done <= before)


def load(bench: Bench, taking_part: Sequence[Contender], repeats: int) -> None:
    """Open loop at shares of each one's own capacity, and the service at the best peer's."""
    seconds = bench.sizes.step_seconds
    for repeat, traffic, contender, capacity in _with_capacities(bench, taking_part, repeats, "load"):
        groups = [[Step(f"{share:.0%} of own capacity", seconds, share * capacity)] for share in SHARES]
        peers = {place: rate for place, rate in capacities(bench).items() if not place[0].startswith("streamspec")}
        if not contender.peer and peers:
            best = max(peers.values())
            groups.append([Step("90% of the best peer's capacity", seconds, SHARES[-1] * best)])
        _note_load(bench, contender, traffic, repeat, "load", groups)


def _for_latency(bench: Bench, taking_part: Sequence[Contender]) -> list[Contender]:
    """Each one in the form that its documentation advises; in a quick run the service and the best peer."""
    advised = {contender.name for contender in taking_part if contender.pass_number == 2}
    found = [c for c in taking_part if c.pass_number == 2 or (c.processes > 1 and c.name not in advised)]
    if not bench.quick:
        return found
    known = capacities(bench)
    peers = [c for c in found if c.peer and (shown_name(c), c.pass_number) in known]
    best = max(peers, key=lambda c: known[shown_name(c), c.pass_number], default=None)
    return [c for c in found if not c.peer or c is best]


def _with_capacities(
    bench: Bench, taking_part: Sequence[Contender], repeats: int, part: str
) -> Iterator[tuple[int, Traffic, Contender, float]]:
    known = capacities(bench)
    for repeat in range(repeats):
        traffic = Traffic(seed=repeat + 1)
        for contender in _turned(taking_part, repeat):
            capacity = known.get((shown_name(contender), contender.pass_number))
            if capacity is None:
                bench.refuse(contender, part, traffic.seed, repeat, "its capacity is not known: run saturation first")
            else:
                yield repeat, traffic, contender, capacity


def _note_load(
    bench: Bench, contender: Contender, traffic: Traffic, repeat: int, part: str, groups: Sequence[Sequence[Step]]
) -> None:
    try:
        measured, verdict = under_load(bench, contender, traffic, groups)
    except RuntimeError as error:
        bench.refuse(contender, part, traffic.seed, repeat, str(error))
        return
    for step, measures in zip([step for group in groups for step in group], measured, strict=True):
        bench.note(contender, part, step.name, traffic.seed, repeat, measures | verdict)


def phases(bench: Bench, taking_part: Sequence[Contender], repeats: int) -> None:
    """Traffic and sink change; nothing is restarted."""
    seconds = bench.sizes.step_seconds
    for repeat, traffic, contender, capacity in _with_capacities(bench, taking_part, repeats, "phases"):
        calm = CALM_SHARE * capacity
        mean_bytes = traffic.bytes_of(1000) / 1000
        steps = [
            Step("1 calm", seconds, calm),
            Step("2 burst", seconds / 2, BURST * calm),
            Step("3 bigger", seconds, calm, heavy_share=BIGGER_HEAVY_SHARE),
            Step("4 one key", seconds, calm, one_key_share=ONE_KEY_SHARE),
            Step(
                "5 slow sink", seconds, calm, sink_bytes_per_second=SLOW_SINK_RATIO * OUTPUT_RATIO * calm * mean_bytes
            ),
            Step("6 calm", seconds, calm),
        ]
        _note_load(bench, contender, traffic, repeat, "phases", [steps])


# -- lines ----------------------------------------------------------------------------------
def _path(quick: bool) -> Path:
    return harness.RESULTS / f"A{'-quick' if quick else ''}.jsonl"


def _earlier(quick: bool) -> list[Line]:
    path = _path(quick)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def write(lines: Sequence[Line], quick: bool) -> Path:
    """New lines take the place of those of the same contenders and parts."""
    renewed = {(line["part"], line["contender"]) for line in lines}
    kept = [line for line in _earlier(quick) if (line["part"], line["contender"]) not in renewed]
    path = _path(quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in [*kept, *lines]))
    partial.replace(path)
    return path


def summary(lines: Sequence[Line]) -> str:
    """Medians of what was measured, with ratios to the service's better pass."""
    rates: dict[str, list[Line]] = {}
    for line in lines:
        if line["part"] == "saturation" and line["status"] == "measured":
            rates.setdefault(line["contender"], []).append(line["measures"])
    rows = {
        name: [statistics.median(m[key] for m in made) for key in ("records_per_second", "cpu_seconds_per_gib")]
        for name, made in rates.items()
    }
    own = [row for name, row in rows.items() if name.startswith("streamspec")]
    if not own:
        return ""
    best, cheapest = max(row[0] for row in own), min(row[1] for row in own)
    told = [f"{'contender':28} {'records/s':>10} {'streamspec':>10} {'CPU s/GiB':>10} {'streamspec':>10}  correct"]
    for name, (rate, cost) in sorted(rows.items(), key=lambda item: -item[1][0]):
        right = all(measures["correct"] for measures in rates[name])
        told.append(f"{name:28} {rate:10.0f} {best / rate:9.2f}x {cost:10.1f} {cheapest / cost:9.2f}x  {right}")
    return "\n".join(told)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (5)")
    parser.add_argument("--quick", action="store_true", help="a third of the records, one repeat")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--contender", action="append", default=[], help="only this one; may be given again")
    options = parser.parse_args(arguments)
    repeats = 1 if options.quick else options.repeats
    missing = prepare_environment()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder) / "kafka")
        bench = Bench(cluster, Path(folder), Sizes.of(options.quick), options.quick, [])
        taking_part = []
        for contender in select(options.contender):
            if contender.peer and contender.package in missing:
                bench.refuse(contender, "saturation", 0, 0, f"does not install: {missing[contender.package]}")
            else:
                taking_part.append(contender)
        try:
            for name, part in (("saturation", saturation), ("load", load), ("phases", phases)):
                if options.only in (None, name):
                    named = bool(options.contender) or name == "saturation"
                    part(bench, taking_part if named else _for_latency(bench, taking_part), repeats)
        finally:
            cluster.close()
            path = write(bench.lines, options.quick) if bench.lines else None
    print(summary(bench.lines))
    print(f"lines in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
