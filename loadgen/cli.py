"""The commands: ``send``, ``replay``, ``receive``, ``verify``, ``scenarios``."""

from __future__ import annotations

import json
import signal
import ssl
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from loadgen.audit import read_audit
from loadgen.errors import EXIT_LOSS, EXIT_OK, EXIT_UNREACHABLE, LoadgenError, UsageError
from loadgen.kinds import KINDS
from loadgen.load import Delivery, Progress, send_scenario
from loadgen.quantities import parse_bytes_per_second, parse_messages_per_second
from loadgen.receive import Receiver
from loadgen.replay import replay as replay_captures
from loadgen.report import Report
from loadgen.scenario import Rate, load_scenario, scenario_names
from loadgen.target import KAFKA, Target, parse_target
from loadgen.verify import verify as verify_sinks

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Generates traffic, and checks what became of it.")

To = Annotated[
    str,
    typer.Option("--to", help="udp://HOST:PORT, tcp://HOST:PORT?framing=length|newline, or kafka://HOST:PORT/TOPIC."),
]
AuditFile = Annotated[Path | None, typer.Option("--audit", help="Mark each message and write what was sent here.")]
AsJson = Annotated[bool, typer.Option("--json", help="The report as one JSON object on standard output.")]
ShowProgress = Annotated[bool, typer.Option("--progress", help="A JSON line a second on standard error.")]
Tls = Annotated[bool, typer.Option("--tls", help="TLS (tcp only).")]
TlsCa = Annotated[Path | None, typer.Option("--tls-ca", help="Certificates to trust instead of the system's.")]
Keys = Annotated[int, typer.Option("--keys", "--connections", min=1, max=4096, help="Sockets or connections.")]


class Stop:
    """Set by SIGINT or SIGTERM; a run then ends with its report."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def __call__(self) -> bool:
        return self.asked


def _tls(wanted: bool, ca: Path | None) -> ssl.SSLContext | None:
    if not wanted and ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as error:
        raise UsageError(f"--tls-ca {ca}: {error}") from None


def _progress(wanted: bool) -> Progress | None:
    if not wanted:
        return None

    def tell(counts: dict[str, Any]) -> None:
        print(json.dumps(counts), file=sys.stderr, flush=True)

    return tell


def _tell(report: Report, as_json: bool) -> None:
    print(json.dumps(report.as_dict()) if as_json else report.text())
    if report.error:
        raise typer.Exit(EXIT_UNREACHABLE)


@app.command()
def send(
    to: To,
    scenario: Annotated[str, typer.Argument(help="A YAML file, or one of the names that `scenarios` lists.")] = "mixed",
    seconds: Annotated[float | None, typer.Option(min=0.001, help="Scales all phases to this length in sum.")] = None,
    rate: Annotated[str | None, typer.Option(help="Replaces all rates: '5000' messages/s, or '10 MiB/s'.")] = None,
    keys: Annotated[int | None, typer.Option("--keys", "--connections", min=1, max=4096)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Replaces the scenario's.")] = None,
    unpaced: Annotated[bool, typer.Option("--unpaced", help="As fast as the destination takes it.")] = False,
    audit: AuditFile = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    progress: ShowProgress = False,
    as_json: AsJson = False,
) -> None:
    """Send a scenario in an open loop: times are fixed beforehand, and a late message is sent at once."""
    chosen = load_scenario(scenario).adapted(
        seconds=seconds, rate=None if rate is None else _rate(rate), keys=keys, seed=seed
    )
    delivery = Delivery(
        target=parse_target(to),
        paced=not unpaced,
        audit=audit,
        tls=_tls(tls, tls_ca),
        stopped=Stop(),
        on_progress=_progress(progress),
    )
    _tell(send_scenario(chosen, delivery), as_json)


def _rate(text: str) -> Rate:
    try:
        if text.endswith("/s"):
            return Rate(bytes_per_second=parse_bytes_per_second(text))
        return Rate(messages_per_second=parse_messages_per_second(text))
    except ValueError as error:
        raise UsageError(f"--rate {text}: give messages per second ('50k') or bytes ('20 MB/s'): {error}") from None


@app.command()
def replay(
    captures: Annotated[list[Path], typer.Argument(help="Capture files (pcap, pcapng, gzip).")],
    to: To,
    speed: Annotated[str, typer.Option(help="Recorded seconds per second, or `max`.")] = "1",
    max_gap: Annotated[float, typer.Option(min=0, help="Longer gaps are shortened to so many seconds.")] = 1.0,
    whole: Annotated[bool, typer.Option("--whole", help="Whole packets instead of transport payloads.")] = False,
    keys: Keys = 8,
    audit: AuditFile = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    progress: ShowProgress = False,
    as_json: AsJson = False,
) -> None:
    """Send what captures hold, at the recorded times."""
    delivery = Delivery(
        target=parse_target(to),
        paced=speed != "max",
        audit=audit,
        tls=_tls(tls, tls_ca),
        stopped=Stop(),
        on_progress=_progress(progress),
    )
    report = replay_captures(captures, delivery, speed=_speed(speed), max_gap_seconds=max_gap, whole=whole, keys=keys)
    _tell(report, as_json)


def _speed(text: str) -> float:
    if text == "max":
        return 1.0
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UsageError(f"--speed {text}: give a positive number or `max`")
    return value


@app.command()
def receive(
    listen: Annotated[str, typer.Option("--listen", help="udp://HOST:PORT or tcp://HOST:PORT?framing=...")],
    out: Annotated[Path, typer.Option("--out", help="File for the messages and their times of arrival.")],
    seconds: Annotated[float | None, typer.Option(help="End after so many seconds; else at SIGINT or SIGTERM.")] = None,
    as_json: AsJson = False,
) -> None:
    """Receive what tcp and udp sinks send, for `verify`."""
    stop = Stop()
    receiver = Receiver(parse_target(listen, listening=True), out)
    host, port = receiver.address
    print(f"listening at {host}:{port}", file=sys.stderr, flush=True)
    end = None if seconds is None else time.monotonic() + seconds
    try:
        received = receiver.run(lambda: stop() or (end is not None and time.monotonic() >= end))
    finally:
        receiver.close()
    counts = received.__dict__
    print(json.dumps(counts) if as_json else ", ".join(f"{name} {count:,}" for name, count in counts.items()))


@app.command()
def verify(
    sinks: Annotated[
        list[str],
        typer.Argument(help="JSON lines with payloads, captures, receivers' files, folders, kafka://HOST:PORT/TOPIC."),
    ],
    audit: Annotated[Path, typer.Option("--audit", help="What `send --audit` wrote.")],
    allow_duplicates: Annotated[bool, typer.Option("--allow-duplicates", help="At least once is enough.")] = False,
    allow_dead_letters: Annotated[
        bool, typer.Option("--allow-dead-letters", help="A message may come as a dead letter.")
    ] = False,
    dictionary: Annotated[Path | None, typer.Option(help="The zstd dictionary that payloads need.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is lost, duplicated, corrupt or out of order; exit 1 when anything is."""
    verdict = verify_sinks(read_audit(audit), list(map(_sink, sinks)), dictionary=_content(dictionary))
    print(json.dumps(verdict.as_dict()) if as_json else verdict.text())
    passes = verdict.passes(allow_duplicates=allow_duplicates, allow_dead_letters=allow_dead_letters)
    raise typer.Exit(EXIT_OK if passes else EXIT_LOSS)


def _sink(text: str) -> Path | Target:
    return parse_target(text) if text.startswith(KAFKA) else Path(text)


def _content(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise UsageError(f"--dictionary {path}: cannot read: {error.strerror or error}") from None


@app.command()
def scenarios() -> None:
    """List the scenarios that come along, and the kinds of traffic."""
    for name in scenario_names():
        print(f"{name:10s} {load_scenario(name).description}")
    print(f"kinds: {', '.join(KINDS)}")


def main() -> None:
    """Run a command; errors are one line and an exit code."""
    try:
        app()
    except LoadgenError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
