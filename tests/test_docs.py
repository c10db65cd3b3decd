"""The documentation is true: links lead somewhere, examples are valid, commands exist, generated pages are current."""

from __future__ import annotations

import json
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import typer.main
import yaml

from streamspec.cli import app
from streamspec.config import ServiceConfig, parse_config
from streamspec.config.models import EngineConfig
from streamspec.config.reference import reference_page
from streamspec.core.features import TYPE_NAMES
from streamspec.engine.arena import Arena
from streamspec.telemetry.decisions import DecisionView, StepView
from streamspec.testing.captures import Packet, classic

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LANGUAGES = {"yaml", "console", "sh", "python", "json", "text"}
BASE = {"sources": {"in": {"type": "udp", "bind": "127.0.0.1:0"}}, "sinks": {"out": {"type": "null"}}}
"""What a part of a configuration is put into."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str | None:
        """Of the file that its first line names."""
        found = re.match(r"# (\S+\.(?:yaml|py))$", self.text.split("\n", 1)[0])
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks_of(page) if block.language in languages]


def _blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page.name, text[: match.start()].count("\n") + 1, match[1], match[2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the examples live: rules and stages of ``configs``, a capture, and the files that examples name."""
    copytree(ROOT / "configs" / "rules", tmp_path / "rules")
    copytree(ROOT / "configs" / "stages", tmp_path / "stages")
    (tmp_path / "tls").mkdir()
    for name in ("server.crt", "server.key", "ca.pem", "password"):
        (tmp_path / "tls" / name).write_text("x\n")
    (tmp_path / "trace.pcap").write_bytes(
        classic([Packet(10**18 + i, _frame(b"token=abc and more")) for i in range(9)])
    )
    for block in blocks("yaml", "python"):
        if block.name:
            (tmp_path / block.name).write_text(block.text)
    return tmp_path


def _frame(payload: bytes) -> bytes:
    udp = struct.pack(">HHHH", 1000, 53, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, bytes(4), bytes(4))
    return bytes(12) + b"\x08\x00" + ip + udp


def test_every_block_says_what_it_is() -> None:
    assert {block.language for page in PAGES for block in _blocks_of(page)} <= LANGUAGES


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.name != "wrong.yaml"], ids=str)
def test_examples_of_configurations_are_valid(block: Block, folder: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(block.text)
    whole = yaml.safe_dump({**BASE, **content})
    text = block.text if {"sources", "sinks"} <= set(content) else whole
    assert isinstance(parse_config(text, origin=str(block), base=folder, environment={}), ServiceConfig)


@pytest.mark.parametrize("kind", ["sources", "stages", "sinks"])
def test_every_component_has_an_example(kind: str) -> None:
    definitions = json.dumps(ServiceConfig.model_json_schema()["properties"][kind])
    types = set(re.findall(r'"(\w+)": "#/\$defs/\w+Config"', definitions))
    assert len(types) >= 5
    shown = "".join(block.text for block in blocks("yaml") if block.page == f"{kind}.md")
    assert {name for name in types if not re.search(rf'type: "?{name}\b', shown)} == set()


def test_commands_have_these_options() -> None:
    command: Any = typer.main.get_command(app)
    lines = [line for block in blocks("sh") for line in block.text.splitlines() if line.startswith("streamspec ")]
    assert len(lines) >= 8
    for line in lines:
        name, *arguments = shlex.split(line, comments=True)[1:]
        part = command.commands[name]
        with part.make_context(name, arguments, resilient_parsing=False):  # parses, and calls nothing
            pass


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_sessions_go_as_shown(block: Block, folder: Path) -> None:
    for part in block.text.split("$ ")[1:]:
        line, _, shown = part.partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "streamspec"
        command = [sys.executable, "-m", "streamspec", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=250)
        assert done.returncode in (0, 78), done.stderr
        pattern = re.escape(shown.strip()).replace(re.escape("..."), ".*")
        assert re.fullmatch(pattern, (done.stdout + done.stderr).strip(), re.DOTALL), done.stdout + done.stderr
        if line == "streamspec run mine.yaml":
            _is_what_the_stages_make(folder)


def _is_what_the_stages_make(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "out" / "mine.jsonl").read_text().splitlines()]
    assert any(line.get("type") == "words" and line["words"] >= 2 for line in lines)
    payloads = "".join(line.get("payload", "") for line in lines)
    assert "token=***" in payloads
    assert "token=abc" not in payloads


def test_the_decision_that_is_shown_has_the_fields_of_one() -> None:
    (block,) = blocks("json")
    shown = json.loads(block.text)
    assert set(shown) == {part.name for part in fields(DecisionView)}
    assert set(shown["steps"][0]) == {part.name for part in fields(StepView)}


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {"".join(c for c in h.lower().replace(" ", "-") if c.isalnum() or c in "-_") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        other = page.parent / file if file else page
        assert other.is_file(), target
        assert not anchor or anchor in _anchors(other), target


def test_benchmarks_that_are_named_exist() -> None:
    named = set(re.findall(r"python -m benchmarks\.(\w+)", "".join(page.read_text() for page in PAGES)))
    assert named
    assert {name for name in named if not (ROOT / "benchmarks" / f"{name}.py").is_file()} == set()


def test_numbers_are_those_of_the_readme_and_of_the_code() -> None:
    sizing, readme = (DOCS / "sizing.md").read_text(), (ROOT / "README.md").read_text()
    for number in ("205.5 MiB", "154,000 segments/s", "7.7 GB/s", "400,000/s without loss"):
        assert number in sizing
        assert number in readme
    engine = EngineConfig()
    assert f"{engine.layout.stride // 1024} KiB with the defaults" in sizing
    assert f"hold {Arena.slots_within(engine.layout, engine.arena_bytes)} segments" in sizing
    kinds = (DOCS / "stages.md").read_text().partition("## Kinds of content")[2]
    assert re.findall(r"`(\w+)`", kinds.partition(":")[2]) == list(TYPE_NAMES)


def test_the_reference_is_current() -> None:
    assert (DOCS / "configuration.md").read_text() == reference_page(), "run `make docs`"


def test_every_key_is_explained() -> None:
    rows = [line for line in reference_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    assert [row for row in rows if row.rstrip(" |").count("|") < 4] == []
