"""``python -m benchmarks.proof.report``: ``benchmarks/RESULTS.md`` and its plots, from the raw lines of all jobs.

The same lines give the same page. Medians stand with smallest and largest behind them; ratios come first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.proof.harness import RESULTS, ROOT
from benchmarks.proof.plots import Bar, bar_chart
from benchmarks.proof.results import OURS, Entry, JobResults, Spread, load
from benchmarks.proof.targets import TARGETS

PAGE, PLOTS = ROOT / "benchmarks" / "RESULTS.md", ROOT / "benchmarks" / "results"
TITLES = {
    "A": "Kafka to Kafka: parse, features, signatures, zstd",
    "B": "UDP to parsed lines in a file",
    "C": "Capture to flow table",
    "D": "Interface to flows",
    "E": "Control",
}
REPRODUCE = "python -m benchmarks {letter} --repeats 5"
PRIMARY = ("packets_per_second", "records_per_second")
COLUMNS = (
    "packets_per_second",
    "records_per_second",
    "offered_records_per_second",
    "mib_per_second",
    "p50_seconds",
    "p99_seconds",
    "p999_seconds",
    "light_p50_seconds",
    "light_p99_seconds",
    "light_p999_seconds",
    "cpu_seconds_per_gib",
    "peak_memory_bytes",
    "time_to_first_result_seconds",
    "whole_seconds",
    "lost",
    "duplicated",
    "out_of_order",
)
"""First, in this order; what else a job measures comes behind them by name."""
LEFT_OUT = {"packets", "wrong", "correct"}
HEADINGS = {
    "packets_per_second": "packets/s",
    "records_per_second": "records/s",
    "offered_records_per_second": "offered records/s",
    "mib_per_second": "MiB/s",
    "cpu_seconds_per_gib": "CPU s/GiB",
    "peak_memory_bytes": "peak memory",
    "time_to_first_result_seconds": "first result",
    "whole_seconds": "whole command",
}
UNITS = (("_seconds", " (s)"), ("_bytes", ""), ("_ratio", ""))
LONGEST_REASON = 240
LATENCY_PLOT = "light_p99_seconds"


def heading(measure: str) -> str:
    """Of a column."""
    if measure in HEADINGS:
        return HEADINGS[measure]
    for ending, unit in UNITS:
        if measure.endswith(ending):
            return measure.removesuffix(ending).replace("_", " ") + unit
    return measure.replace("_", " ")


def amount(measure: str, value: float) -> str:
    """A number as people read it, with three digits that count."""
    if measure.endswith("_bytes"):
        return f"{value / 2**20:,.0f} MiB"
    if measure.endswith("_seconds"):
        return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
    if value == int(value) and abs(value) < 1e4:
        return f"{int(value)}"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread_text(measure: str, spread: Spread) -> str:
    """Median, and smallest to largest where they differ."""
    median, low, high = (amount(measure, value) for value in (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low} – {high})"


def primary(entries: Sequence[Entry]) -> str:
    """What the ratios are of; empty when no rate was measured."""
    return next((name for name in PRIMARY if any(name in entry.measures for entry in entries)), "")


def ordered(entries: Sequence[Entry], measure: str) -> list[Entry]:
    """Ours first, then from the best; those without a number last."""
    return sorted(
        entries,
        key=lambda entry: (not entry.contender.startswith(OURS), -(entry.median(measure) or 0.0), entry.contender),
    )


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """Rows of all that were measured, right and wrong."""
    first = primary(entries)
    measured = [entry for entry in ordered(entries, first) if entry.measures]
    if not measured:
        return
    there = {name for entry in measured for name in entry.measures} - LEFT_OUT
    columns = [*(name for name in COLUMNS if name in there), *sorted(there - set(COLUMNS))]
    ours = next((entry.median(first) for entry in measured if entry.contender == OURS), None)
    yield f"| contender | ours / theirs | {' | '.join(map(heading, columns))} | repeats |"
    yield f"|---|---:|{'---:|' * (len(columns) + 1)}"
    for entry in measured:
        median = entry.median(first)
        ratio = f"{ours / median:.3g}" if ours and median else ""
        if entry.wrong:
            cells = ["wrong"] * len(columns)
        else:
            cells = [spread_text(name, entry.measures[name]) if name in entry.measures else "" for name in columns]
        cells = [_at_least(cell, name, first, entry) for cell, name in zip(cells, columns, strict=True)]
        yield f"| {entry.contender} | {ratio} | {' | '.join(cells)} | {entry.repeats} |"


def _at_least(cell: str, name: str, first: str, entry: Entry) -> str:
    return f"≥ {cell}" if name == first and "sender_limited" in entry.marks and not entry.wrong else cell


def target_rows(results: Sequence[JobResults]) -> Iterator[str]:
    """What must be reached beside what was measured."""
    yield "| job | measure | at least | measured | reached |"
    yield "|---|---|---:|---:|---|"
    by_letter = {one.letter: one for one in results}
    for target in TARGETS:
        job = by_letter.get(target.letter)
        value = target.value(job) if job else None
        shown = "not measured" if value is None else f"{value:.3g}"
        reached = "" if value is None else ("yes" if value >= target.least else "**no**")
        quick = " (quick run)" if job and job.quick and value is not None else ""
        yield f"| {target.letter} | {target.text} | {target.least:g} | {shown}{quick} | {reached} |"


def shortened(reason: str) -> str:
    """On one line, not long, without the paths of a machine; a traceback keeps its end, which says what happened."""
    text = " ".join(reason.replace(f"{ROOT}/", "").split())
    if len(text) <= LONGEST_REASON:
        return text
    return f"{text[: LONGEST_REASON // 2]} ... {text[-LONGEST_REASON // 2 :]}"


def reasons(job: JobResults) -> Iterator[str]:
    """Who did not run, was wrong, or was compared with a tolerance."""
    told: set[tuple[str, str]] = set()
    for entries in job.phases.values():
        for entry in entries.values():
            for reason in entry.reasons:
                text = shortened(reason)
                if (entry.contender, text) not in told:
                    told.add((entry.contender, text))
                    verdict = "wrong: " if entry.wrong and not text.startswith("compared") else ""
                    verdict = verdict or ("" if entry.measures or text.startswith("compared") else "not run: ")
                    yield f"- {entry.contender}: {verdict}{text}"


def job_section(job: JobResults, plots: Path) -> Iterator[str]:
    """Heading, tables, plots, reasons."""
    yield f"## {job.letter}. {TITLES.get(job.letter, job.letter)}\n"
    if job.quick:
        yield "**From a quick run: it shows that everything works, not how fast it is.**\n"
    yield f"`{REPRODUCE.format(letter=job.letter)}`\n"
    for phase, entries in job.phases.items():
        rows = list(table(list(entries.values())))
        if not rows:
            continue
        if phase:
            yield f"### {phase[0].upper()}{phase[1:]}\n"
        yield "\n".join(rows) + "\n"
        for name, svg in _charts(job, phase, list(entries.values())):
            (plots / name).write_text(svg, encoding="utf-8")
            yield f"![{phase or TITLES.get(job.letter, job.letter)}](results/{name})\n"
    told = list(reasons(job))
    if told:
        yield "\n".join(told) + "\n"
    yield _ran_on(job) + "\n"


def _charts(job: JobResults, phase: str, entries: list[Entry]) -> Iterator[tuple[str, str]]:
    measure = LATENCY_PLOT if any(LATENCY_PLOT in entry.measures for entry in entries) else primary(entries)
    bars = [
        Bar(
            entry.contender,
            spread.median,
            spread.low,
            spread.high,
            amount(measure, spread.median),
            entry.contender.startswith(OURS),
        )
        for entry in ordered(entries, measure)
        if not entry.wrong and (spread := entry.measures.get(measure)) and spread.median > 0
    ]
    if len(bars) > 1:
        words = "".join(letter if letter.isalnum() else "-" for letter in phase.lower()).strip("-")
        name = f"{job.letter.lower()}{'-' if words else ''}{words}.svg"
        title = f"{job.letter}. {phase or TITLES.get(job.letter, job.letter)}"
        yield name, bar_chart(title, heading(measure), bars)


def _ran_on(job: JobResults) -> str:
    hosts = sorted({f"{h['cpu']}, {h['cores']} cores, Linux {h['kernel']}" for h in _each(job, "host")})
    ours = sorted({versions["streamspec"] for versions in _each(job, "versions")})
    versions = sorted({f"{e.contender} ({e.version})" for p in job.phases.values() for e in p.values() if e.version})
    seeds = sorted({str(line["seed"]) for line in job.lines if "seed" in line})
    text = f"On {'; '.join(hosts)}. streamspec {', '.join(ours)}; seeds {', '.join(seeds)}."
    peers = [version for version in versions if not version.startswith(OURS)]
    return f"{text} Versions: {'; '.join(peers)}." if peers else text


def _each(job: JobResults, name: str) -> Iterator[dict[str, str]]:
    return (line[name] for line in job.lines if line.get(name))


def page(results: Sequence[JobResults], plots: Path) -> str:
    """The whole page; writes the plots."""
    plots.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Results\n",
        "Generated by `python -m benchmarks report` from the raw lines of the jobs; do not edit. Medians of "
        "interleaved repeats, with the smallest and largest in brackets. A contender is measured only once its output "
        "was compared with the reference; one that is wrong or cannot run is listed with the reason. `≥`: the sender "
        "was at its end before the contender.\n",
        "## Targets\n",
        "\n".join(target_rows(results)) + "\n",
    ]
    for job in results:
        parts += job_section(job, plots)
    return "\n".join(parts)


def main() -> None:
    """Write page and plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=Path, default=RESULTS, help="folder of raw lines")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    plots = options.page.parent / PLOTS.name
    options.page.write_text(page(load(options.lines), plots), encoding="utf-8")
    print(f"{options.page} and plots in {plots}")


if __name__ == "__main__":
    main()
