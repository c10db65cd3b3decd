"""Quantities as people write them ("64 KiB", "50 ms", "100 Mbit/s") to base units and back.

The annotated types are for configuration models: they accept a number in the base unit or a string
with a unit, and are plain ``int`` (bytes) or ``float`` (seconds, bytes per second) afterwards.
"""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]*)\s*$")
_BYTES = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SECONDS = {"": 1.0, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATES = {
    **{f"{unit}/s": float(scale) for unit, scale in _BYTES.items() if unit},
    "bit/s": 1 / 8,
    "kbit/s": 1e3 / 8,
    "Mbit/s": 1e6 / 8,
    "Gbit/s": 1e9 / 8,
    "": 1.0,
}


def _parse(value: object, scales: dict[str, int] | dict[str, float], noun: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{noun} must be a number or text with a unit, such as {_examples(scales)}")
    if isinstance(value, int | float):
        quantity = float(value) if abs(value) < 1e300 else math.inf
    else:
        match = _QUANTITY.match(value)
        if match is None or match[2] not in scales:
            raise ValueError(f"not a {noun}: {value!r}; units: {_examples(scales)}")
        quantity = float(match[1]) * scales[match[2]]
    if not math.isfinite(quantity):
        raise ValueError(f"a {noun} must be finite")
    return quantity


def _examples(scales: dict[str, int] | dict[str, float]) -> str:
    return ", ".join(unit for unit in scales if unit)


def parse_bytes(value: object) -> int:
    """``"2 GiB"`` -> 2147483648. Raises ``ValueError`` for anything that is not a size."""
    return round(_parse(value, _BYTES, "size"))


def parse_seconds(value: object) -> float:
    """``"50 ms"`` -> 0.05. Raises ``ValueError`` for anything that is not a duration."""
    return _parse(value, _SECONDS, "duration")


def parse_bytes_per_second(value: object) -> float:
    """``"100 Mbit/s"`` -> 12500000.0. Raises ``ValueError`` for anything that is not a rate."""
    return _parse(value, _RATES, "rate")


def format_bytes(count: float) -> str:
    """1536 -> ``"1.5 KiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """0.00123 -> ``"1.23 ms"``."""
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def _schema(description: str) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}], "description": description})


Bytes = Annotated[int, BeforeValidator(parse_bytes), _schema("bytes, or text such as '64 KiB'")]
Seconds = Annotated[float, BeforeValidator(parse_seconds), _schema("seconds, or text such as '50 ms'")]
BytesPerSecond = Annotated[
    float, BeforeValidator(parse_bytes_per_second), _schema("bytes per second, or text such as '100 Mbit/s'")
]
