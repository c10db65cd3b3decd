"""Numeric records of sensors: a header and rows of 24 bytes, so bytes repeat with that period."""

from __future__ import annotations

import struct
from random import Random

import numpy as np

from loadgen.kinds.kind import Kind

_HEADER = struct.Struct("<4sHHIHH")
_ROW = np.dtype(
    [
        ("milliseconds", "<u4"),
        ("temperature", "<f4"),
        ("pressure", "<f4"),
        ("acceleration", "<i2", (3,)),
        ("status", "<u2"),
        ("energy", "<u4"),
    ]
)
"""Slowly changing floats, twelve-bit readings with noise, flags that are mostly zero, and counters."""


def generate(rng: Random, size: int) -> bytes:
    """A header ``magic, version, device, first millisecond, rows, row bytes`` and the rows."""
    rows = (size - _HEADER.size) // _ROW.itemsize
    start = rng.getrandbits(30)
    header = _HEADER.pack(b"SNS1", 1, rng.randrange(500), start, rows & 0xFFFF, _ROW.itemsize)
    body = _rows(rng, rows, start).tobytes()
    return (header + body).ljust(size, b"\0")


def _rows(rng: Random, rows: int, start: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    noise = np.frombuffer(rng.randbytes(10 * rows), dtype=np.int16).reshape(rows, 5) / 32768.0
    steps = np.arange(rows)
    angle = rng.uniform(0, 6.28) + steps * rng.uniform(0.02, 0.3)
    table = np.zeros(rows, dtype=_ROW)
    table["milliseconds"] = start + 10 * steps
    table["temperature"] = rng.uniform(15, 40) + np.sin(angle) + 0.05 * noise[:, 0]
    table["pressure"] = rng.uniform(95, 105) + 0.5 * np.cos(angle / 3) + 0.01 * noise[:, 1]
    table["acceleration"] = 2048 + 200 * np.sin(3 * angle)[:, None] + 8 * noise[:, 2:]
    table["status"] = np.where(noise[:, 2] > 0.97, 4, 0)
    table["energy"] = rng.getrandbits(24) + 3 * steps
    return table


KIND = Kind("sensor", generate, _HEADER.size, 512, 0.6, "numeric binary records with a period of 24 bytes")
