"""Where relative paths of a configuration lead."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from streamspec.config import parse_config
from streamspec.core.paths import CommandLineText, InputFile

BASE = Path("/etc/streamspec")


class Model(BaseModel):
    path: InputFile


def resolved(value: object, base: Path | None = BASE) -> Path:
    return Model.model_validate({"path": value}, context={"base": base}).path


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("rules.yaml", BASE / "rules.yaml"),
        ("../rules.yaml", BASE / "../rules.yaml"),
        (Path("rules.yaml"), BASE / "rules.yaml"),
        ("/srv/rules.yaml", Path("/srv/rules.yaml")),
        ("~/rules.yaml", Path.home() / "rules.yaml"),
        (CommandLineText("rules.yaml"), Path("rules.yaml")),
    ],
)
def test_relative_to_the_file_that_names_it(value: object, path: Path) -> None:
    assert resolved(value) == path


def test_relative_to_the_working_folder_without_a_file() -> None:
    assert resolved("rules.yaml", base=None) == Path("rules.yaml")
    assert Model(path="rules.yaml").path == Path("rules.yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [3, None, ["a"], "a\0b"])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="path"):
        resolved(value)


def test_what_set_gives_is_relative_to_where_it_was_typed() -> None:
    text = "sources: {c: {type: pcap, path: a.pcap}}\nsinks: {out: {type: null}}\n"
    paths = [
        parse_config(text, origin="c.yaml", base=BASE, overrides=overrides).model_dump()["sources"]["c"]["path"]
        for overrides in ((), ("sources.c.path=b.pcap",))
    ]
    assert paths == [BASE / "a.pcap", Path("b.pcap")]
