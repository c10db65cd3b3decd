"""Paths in a configuration: files that it refers to lie relative to it, wherever the service is started.

The loader passes the folder of the configuration file in pydantic's validation context (``{"base": Path}``)
and marks what came from the command line, which a shell completes relative to the working folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema


class CommandLineText(str):
    """Text that was typed on the command line (``--set``), not read from the file."""

    __slots__ = ()


def resolve_input(value: object, info: ValidationInfo) -> object:
    """``value`` as a path; a relative one is taken from the configuration's folder, or from the
    working folder when it was typed on the command line or there is no file."""
    if not isinstance(value, str | Path):
        return value
    if "\0" in str(value):
        raise ValueError("a path cannot contain a zero byte")
    path = Path(value).expanduser() if str(value).startswith("~/") else Path(value)
    base = (info.context or {}).get("base")
    if path.is_absolute() or base is None or isinstance(value, CommandLineText):
        return path
    return Path(base) / path


InputFile = Annotated[
    Path,
    BeforeValidator(resolve_input),
    WithJsonSchema({"type": "string", "description": "path, relative to the configuration file's folder"}),
]
"""A file that the configuration refers to and the service reads: rules, a dictionary, a key, code."""
