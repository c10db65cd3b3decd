"""Sizes, durations and rates as people write them: ``64 KiB``, ``1.5s``, ``50k``, ``20MB/s``."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?)\s*([A-Za-z]*)\s*")
_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6}
_BYTES = {"": 1.0, "B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_BITS = {"bit": 1 / 8, "kbit": 1e3 / 8, "Mbit": 1e6 / 8, "Gbit": 1e9 / 8}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "min": 60.0, "h": 3600.0}


def _parse(value: object, scales: dict[str, float], noun: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a {noun} is a number or text with a unit ({_units(scales)})")
    if not isinstance(value, str):
        number = float(value)
    else:
        match = _NUMBER.fullmatch(value)
        if match is None or match[2] not in scales:
            raise ValueError(f"not a {noun}: {value!r}; units: {_units(scales)}")
        number = float(match[1]) * scales[match[2]]
    if not math.isfinite(number):
        raise ValueError(f"a {noun} must be finite")
    return number


def _units(scales: dict[str, float]) -> str:
    return ", ".join(unit for unit in scales if unit)


def parse_bytes(value: object) -> int:
    """``"64 KiB"`` -> 65536; raises ``ValueError`` for anything that is not a size."""
    return round(_parse(value, _BYTES, "size"))


def parse_seconds(value: object) -> float:
    """``"50 ms"`` -> 0.05; raises ``ValueError`` for anything that is not a duration."""
    return _parse(value, _SECONDS, "duration")


def parse_messages_per_second(value: object) -> float:
    """``"50k"`` -> 50000.0; raises ``ValueError`` for anything that is not a count."""
    return _parse(value, _COUNTS, "number of messages per second")


def parse_bytes_per_second(value: object) -> float:
    """``"20 MB/s"`` or ``"100 Mbit/s"`` -> bytes per second; the ``/s`` may be left out in files."""
    if isinstance(value, str):
        value = value.strip().removesuffix("/s")
    return _parse(value, _BYTES | _BITS, "rate in bytes")


def _schema(description: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}], "description": description})


Bytes = Annotated[int, BeforeValidator(parse_bytes), _schema("bytes, or text such as '64 KiB'")]
Seconds = Annotated[float, BeforeValidator(parse_seconds), _schema("seconds, or text such as '50 ms'")]
MessagesPerSecond = Annotated[float, BeforeValidator(parse_messages_per_second), _schema("messages per second")]
BytesPerSecond = Annotated[float, BeforeValidator(parse_bytes_per_second), _schema("bytes/s, or such as '20 MB/s'")]
