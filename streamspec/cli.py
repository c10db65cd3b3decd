"""The command line. Each command imports what it needs, so that the quick ones are quick.

Exit codes: 0, 2 usage, 69 something outside is unavailable, 70 internal, 78 bad configuration,
128 + n ended by signal n.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamspec.core.errors import EXIT_CONFIG, EXIT_INTERNAL, StreamspecError

if TYPE_CHECKING:
    from streamspec.config import ConfigurationRefused, ServiceConfig

EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="A service for streams of network packets and telemetry.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Put one value over the file's, e.g. --set sources.packets.bind=127.0.0.1:9000; may be repeated.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines instead of text.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error.")] = False,
) -> None:
    """A service for streams of network packets and telemetry."""


@app.command()
def demo(
    seconds: Annotated[
        float, typer.Option(min=0.5, max=86_400, help="How long traffic is generated, in each run.")
    ] = 10.0,
    as_json: AsJson = False,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Configuration instead of the built-in one.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare",
            help="Run the same load again with control off (default: with the built-in configuration).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the service on generated traffic on this machine and say what became of it."""
    from streamspec.demo import run_demo

    _finish(run_demo(seconds, as_json, config, tuple(overrides or ()), compare))


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    record: Annotated[
        Path | None, typer.Option(metavar="TRACE", help="Write a trace for `replay`.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the service until its sources end or it is told to stop. SIGTERM drains, SIGHUP reloads."""
    loaded = _load(config, overrides)
    import structlog

    from streamspec.telemetry.logging import configure_logging, tell_held_back

    configure_logging(loaded.logging.level, loaded.logging.format)
    # The very first start of a chain compiles its kernels, which can take half a minute.
    structlog.get_logger("streamspec.cli").info("starting", config=str(config))
    from streamspec.app import run_service

    summaries: list[dict[str, Any]] = []
    try:
        given = tuple(overrides or ())
        code = run_service(loaded, config_path=config, overrides=given, on_summary=summaries.append, record=record)
    finally:
        tell_held_back()
        for summary in summaries:
            _tell(summary, as_json)
    _finish(code)


def _tell(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(summary)
    elif sys.exc_info()[0] is None or summary["segments_received"]:  # a start that failed has nothing to tell
        from streamspec.summary import tell_summary

        tell_summary(summary)


@app.command()
def validate(config: ConfigPath, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a configuration and start nothing. Exit code 78 when it is wrong, with every fault on a line."""
    from streamspec.config import ConfigurationRefused

    try:
        loaded = _load(config, overrides)
    except ConfigurationRefused as refused:
        if not as_json:
            raise
        _print_json({"valid": False, "file": str(config), "problems": _problems(refused)})
        raise typer.Exit(EXIT_CONFIG) from None
    if as_json:
        _print_json({"valid": True, "file": str(config), "configuration": loaded.model_dump(mode="json")})
    else:
        typer.echo(f"{config}: valid; {_overview(loaded)}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of configurations, for editors."""
    from streamspec.config import ServiceConfig

    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema"} | ServiceConfig.model_json_schema())


@app.command()
def profile(
    paths: Annotated[list[Path], typer.Argument(help="Captures, other files, or folders of them.", show_default=False)],
    segment_bytes: Annotated[int, typer.Option(min=64, max=1 << 26, help="Bytes of a segment.")] = 64 * 1024,
    every_byte: Annotated[bool, typer.Option("--every-byte", help="Read all of large segments, not a sample.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write charts by type.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per segment.")] = False,
) -> None:
    """Show what is in files and captures: the features of their segments, as the service would cut them."""
    from streamspec.profile_files import run_profile

    run_profile(paths, segment_bytes=segment_bytes, every_byte=every_byte, as_json=as_json, plot=plot)


models = typer.Typer(help="The stored models of what segments cost: list, compare, promote, carry elsewhere.")
app.add_typer(models, name="models", no_args_is_help=True)

Database = Annotated[Path, typer.Option("--database", metavar="FILE", help="Resource Profile Database.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.", show_default=False)]
ModelVersion = Annotated[
    int | None,
    typer.Option("--version", min=1, help="By default the champion, or else the newest.", show_default=False),
]
PROFILES = Path("profiles.db")


Captures = Annotated[
    list[Path], typer.Argument(metavar="CAPTURE...", help="Captures, or folders of them.", show_default=False)
]
ChainFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration whose stages are meant; without it inspect and compress, as in the demo.",
        show_default=False,
    ),
]
Payloads = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of other files, cut into messages.", show_default=False),
]
EveryByte = Annotated[bool, typer.Option("--every-byte", help="Profile all of large segments, not a sample.")]
Repetitions = Annotated[int, typer.Option(min=1, max=100, help="Turns of each segment; the fastest counts.")]


@app.command()
def train(
    captures: Captures,
    database: Database = PROFILES,
    config: ChainFile = None,
    payloads: Payloads = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "base",
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Store it beside the champion, not in its place.")
    ] = False,
    folds: Annotated[int, typer.Option(min=2, max=100, help="Parts of the cross-validation.")] = 5,
    repetitions: Repetitions = 5,
    every_byte: EveryByte = False,
    as_json: AsJson = False,
) -> None:
    """Measure what the segments of captures cost, and train the base model that predicts it."""
    from streamspec.train_models import run_train

    run_train(
        captures,
        database=database,
        config=config,
        payloads=payloads,
        as_json=as_json,
        repetitions=repetitions,
        folds=folds,
        every_byte=every_byte,
        name=name,
        role="challenger" if challenger else "champion",
    )


@app.command()
def evaluate(
    captures: Captures,
    database: Database = PROFILES,
    config: ChainFile = None,
    payloads: Payloads = None,
    name: Annotated[str, typer.Option(help="Name of the model.")] = "base",
    repetitions: Repetitions = 5,
    every_byte: EveryByte = False,
    as_json: AsJson = False,
) -> None:
    """Say how well the stored models predict captures that they were not trained on."""
    from streamspec.evaluate_models import run_evaluate

    run_evaluate(
        captures,
        database=database,
        config=config,
        payloads=payloads,
        as_json=as_json,
        repetitions=repetitions,
        every_byte=every_byte,
        name=name,
    )


@models.command("list")
def models_list(database: Database = PROFILES, as_json: AsJson = False) -> None:
    """Every version with its role, parent, size and metrics, and the state of online models."""
    from streamspec.models_command import list_models

    list_models(database, as_json=as_json)


@models.command("show")
def models_show(
    name: ModelName, version: ModelVersion = None, database: Database = PROFILES, as_json: AsJson = False
) -> None:
    """All that is known of one version, and whether its content is authentic."""
    from streamspec.models_command import show_model

    show_model(database, name, version, as_json=as_json)


@models.command("promote")
def models_promote(
    name: ModelName,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Of the model.", show_default=False)],
    database: Database = PROFILES,
    as_json: AsJson = False,
) -> None:
    """Make a version the champion, which services use; the one before is archived, and can be promoted again."""
    from streamspec.models_command import promote_model

    promote_model(database, name, version, as_json=as_json)


@models.command("export")
def models_export(
    name: ModelName,
    file: Annotated[Path, typer.Argument(metavar="TO", help="File to write.", show_default=False)],
    version: ModelVersion = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    database: Database = PROFILES,
    as_json: AsJson = False,
) -> None:
    """Write one version to a file, signed with this database's key."""
    from streamspec.models_command import export_model

    export_model(database, name, version, file, overwrite=overwrite, as_json=as_json)


@models.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(metavar="FROM", help="File that `models export` wrote.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Store it under this name.", show_default=False)] = None,
    role: Annotated[str, typer.Option(help="archived, challenger or champion.")] = "archived",
    trust: Annotated[
        bool, typer.Option("--trust", help="Take it though another key signed it; never for pickled content.")
    ] = False,
    database: Database = PROFILES,
    as_json: AsJson = False,
) -> None:
    """Store an exported model as a new version."""
    from streamspec.models_command import import_model

    import_model(database, file, name=name, role=role, trust=trust, as_json=as_json)


@app.command()
def top(
    url: Annotated[str, typer.Argument(help="Admin address of a running service.")] = "http://127.0.0.1:9470",
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end.")] = False,
    token: Annotated[
        str | None, typer.Option(envvar="STREAMSPEC_TOKEN", help="Its `admin.token`.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch a running service, here or elsewhere: lanes, latency, content, decisions. Ctrl-C ends it."""
    from streamspec.top import run_top

    _finish(run_top(url, token, once=once, as_json=as_json))


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Trace of `run --record`.", show_default=False)],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="Policy to run on it: static, planner, aimd, ds2, gradient; may be repeated. Default: the first two.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write charts over time.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare policies on a recorded trace, simulated: misses, latency, worker-seconds, switches."""
    from streamspec.replay_trace import run_replay

    run_replay(trace, policy or (), as_json=as_json, plot=plot)


@app.command()
def explain(
    database: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Database of the service (profiles.db).", show_default=False)
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Ask a running service at its admin address instead.", show_default=False)
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="STREAMSPEC_TOKEN", help="Its `admin.token`.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many decisions.")] = 20,
    full: Annotated[bool, typer.Option("--full", help="With what was seen, forecast, expected and measured.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the controller decided, why, and what came of it; of a running or a stopped service."""
    from streamspec.explain import explain_decisions

    for line in explain_decisions(database=database, url=url, token=token, last=last, as_json=as_json, full=full):
        typer.echo(line)


@app.command()
def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Exit with 69 unless this is available; repeatable.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask its Kafka brokers, too.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what this host allows, what it is good for, and the command that would enable the rest."""
    from streamspec.doctor import run_doctor

    loaded = None if config is None else _load(config, None)
    _finish(run_doctor(tuple(require or ()), loaded, as_json=as_json))


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    if as_json:
        libraries = ("numpy", "numba", "river", "uvloop", "aiokafka", "hyperscan", "pydantic")
        _print_json(
            {
                "streamspec": version_of("streamspec"),
                "python": sys.version.split()[0],
                "libraries": {name: version_of(name) for name in libraries},
            }
        )
    else:
        typer.echo(f"streamspec {version_of('streamspec')}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, prog_name="streamspec")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else EXIT_INTERNAL if ended.code else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except StreamspecError as error:
        if "--debug" in arguments and error.exit_code == EXIT_INTERNAL:
            raise
        _complain(str(error))
        return error.exit_code
    except Exception as error:
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        else:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            _complain(f"internal error: {told}; next: `streamspec --debug ...` shows where, please report it")
        return EXIT_INTERNAL
    return 0


def _load(path: Path, overrides: list[str] | None) -> ServiceConfig:
    from streamspec.config import load_config

    return load_config(path, tuple(overrides or ()))


def _finish(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _complain(text: str) -> None:
    # Plain and unwrapped: a line of a fault stays one line, for editors that parse it.
    print(text.encode("utf-8", "backslashreplace").decode(), file=sys.stderr)


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2 if os.isatty(1) else None, default=str) + "\n")
    sys.stdout.flush()


def _problems(refused: ConfigurationRefused) -> list[dict[str, Any]]:
    return [
        {
            "file": problem.place.origin,
            "line": problem.place.line or None,
            "column": problem.place.column or None,
            "path": ".".join(map(str, problem.path)) or None,
            "what": problem.what,
            "suggestion": problem.suggestion,
            "allowed": problem.allowed,
        }
        for problem in refused.problems
    ]


def _overview(config: ServiceConfig) -> str:
    dumped = config.model_dump(include={"sources", "stages", "sinks"})

    def kinds(section: Any) -> str:
        if isinstance(section, dict):
            return ", ".join(f"{name} ({part.get('type')})" for name, part in section.items())
        return ", ".join(str(part.get("type")) for part in section) or "none"

    lanes = ", ".join(
        f"{lane.name} ({lane.workers} worker{'s'[: lane.workers > 1]})" for lane in config.effective_lanes
    )
    parts = {name: kinds(section) for name, section in dumped.items()} | {"lanes": lanes}
    return "; ".join(f"{name}: {text}" for name, text in parts.items())
