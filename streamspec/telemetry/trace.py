"""Recorded traces: what arrived and what it cost, one compact row per finished segment, for ``streamspec replay``.

A file is the line ``streamspec-trace 1``, a line of JSON that describes it, and then rows (little-endian, as the
description's ``dtype`` says) until its end; a torn last row is ignored. Bytes of payloads are never recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from streamspec.core.errors import DependencyUnavailable, UsageError
from streamspec.core.interfaces import Rows

MAGIC = b"streamspec-trace 1\n"
_LONGEST_HEADER = 1 << 20
_BUFFERED_ROWS = 4096


@dataclass(frozen=True)
class TraceHeader:
    """What a trace says of itself.

    Attributes:
        stages: types of the chain.
        variants: cost keys of the variable stage, empty when the chain has none.
        variable_stage: its index, -1 without one.
        default_variant: index into ``variants``.
        latency_seconds, percentile: the objective.
        cores, workers: usable cores, and workers of the setting that the configuration amounts to.
        sources: names by index.
        ordered: order was kept per key.
        speed_up: measured useful seconds per second by number of busy workers; empty when not known.
    """

    stages: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    variable_stage: int = -1
    default_variant: int = 0
    latency_seconds: float = 0.05
    percentile: float = 99.0
    cores: int = 1
    workers: int = 1
    sources: tuple[str, ...] = ()
    ordered: bool = True
    speed_up: tuple[float, ...] = ()


def row_dtype(stages: int) -> np.dtype[Any]:
    """One row of a chain of that many stages; about 60 bytes."""
    return np.dtype(
        [
            ("arrival_ns", "<i8"),  # monotonic
            ("key_hash", "<u8"),
            ("latency_ns", "<i8"),
            ("length", "<u4"),
            ("payload_bytes_out", "<u4"),
            ("predicted_ns", "<f4"),  # 0: not predicted
            ("predicted_upper_ns", "<f4"),
            ("source", "<u2"),
            ("ending", "u1"),  # outcome.DELIVERED, ...
            ("profiled", "u1"),
            ("useful_ns", "<u4", (max(stages, 1),)),  # by stage; at most 4.29 s
            ("variant", "i1", (max(stages, 1),)),
        ]
    )


class TraceWriter:
    """Appends finished segments to a trace.

    Args:
        path: created, or replaced.
        header: see :class:`TraceHeader`.

    Raises:
        DependencyUnavailable: the file cannot be written.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        self._path = path
        self._dtype = row_dtype(len(header.stages))
        self._stages = max(len(header.stages), 1)
        self._buffer = np.zeros(_BUFFERED_ROWS, dtype=self._dtype)
        self._count = 0
        self.rows = 0
        described = asdict(header) | {"dtype": self._dtype.descr}
        try:
            self._file: BinaryIO = path.open("wb", buffering=0)
            self._file.write(MAGIC + json.dumps(described).encode() + b"\n")
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, outcomes: Rows) -> None:
        """Add ``OUTCOME`` rows. Raises DependencyUnavailable when the disk refuses."""
        for start in range(0, len(outcomes), _BUFFERED_ROWS):
            self._append(outcomes[start : start + _BUFFERED_ROWS])

    def _append(self, outcomes: Rows) -> None:
        if self._count + len(outcomes) > len(self._buffer):
            self.flush()
        rows = self._buffer[self._count : self._count + len(outcomes)]
        for name in ("arrival_ns", "key_hash", "latency_ns", "length", "payload_bytes_out", "source", "ending"):
            rows[name] = outcomes[name]
        for name in ("predicted_ns", "predicted_upper_ns", "profiled"):
            rows[name] = outcomes[name]
        rows["useful_ns"] = np.clip(outcomes["useful_ns"][:, : self._stages], 0, 2**32 - 1)
        rows["variant"] = np.clip(outcomes["variant"][:, : self._stages], -1, 127)
        self._count += len(outcomes)
        self.rows += len(outcomes)

    def flush(self) -> None:
        """Write what is buffered."""
        count, self._count = self._count, 0
        if count:
            try:
                self._file.write(self._buffer[:count].tobytes())
            except OSError as error:
                raise _unwritable(self._path, error) from error

    def close(self) -> None:
        """Write the rest and close; safe to call twice."""
        if not self._file.closed:
            try:
                self.flush()
            finally:
                self._file.close()


@dataclass(frozen=True)
class Trace:
    """A trace as read; ``rows`` in order of arrival."""

    header: TraceHeader
    rows: npt.NDArray[np.void]
    path: Path = field(default=Path())


def read_trace(path: Path) -> Trace:
    """Read a trace.

    Raises:
        DependencyUnavailable: the file cannot be read.
        UsageError: it is no trace, or has no rows.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DependencyUnavailable(f"cannot read the trace: {error.strerror}", where=str(path)) from error
    end = content.find(b"\n", len(MAGIC), len(MAGIC) + _LONGEST_HEADER)
    if not content.startswith(MAGIC) or end < 0:
        raise _no_trace(path, "it does not begin like one")
    try:
        described = json.loads(content[len(MAGIC) : end])
        header = _header(described)
        dtype = row_dtype(len(header.stages))
        if np.dtype([_field(entry) for entry in described["dtype"]]) != dtype:
            raise ValueError("rows of another layout")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise _no_trace(path, str(error)) from error
    count = (len(content) - end - 1) // dtype.itemsize
    if not count:
        raise _no_trace(path, "it has no rows")
    rows = np.frombuffer(content, dtype=dtype, count=count, offset=end + 1)
    return Trace(header, rows[np.argsort(rows["arrival_ns"], kind="stable")], path)


def _header(described: dict[str, Any]) -> TraceHeader:
    header = TraceHeader(
        stages=tuple(map(str, described["stages"])),
        variants=tuple(map(str, described["variants"])),
        variable_stage=int(described["variable_stage"]),
        default_variant=int(described["default_variant"]),
        latency_seconds=float(described["latency_seconds"]),
        percentile=float(described["percentile"]),
        cores=int(described["cores"]),
        workers=int(described["workers"]),
        sources=tuple(map(str, described["sources"])),
        ordered=bool(described["ordered"]),
        speed_up=tuple(map(float, described["speed_up"])),
    )
    if not (header.latency_seconds > 0 and 0 < header.percentile < 100 and header.cores >= 1 and header.workers >= 1):
        raise ValueError("its objective or machine is impossible")
    if not -1 <= header.variable_stage < len(header.stages) or len(header.stages) > 64:
        raise ValueError("its variable stage does not exist")
    if header.variants and not 0 <= header.default_variant < len(header.variants):
        raise ValueError("its default variant does not exist")
    return header


def _field(entry: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(tuple(part) if isinstance(part, list) else part for part in entry)


def _no_trace(path: Path, why: str) -> UsageError:
    return UsageError(
        f"not a trace: {why}", where=str(path), next_step="record one with `streamspec run CONFIG --record FILE`"
    )


def _unwritable(path: Path, error: OSError) -> DependencyUnavailable:
    return DependencyUnavailable(
        f"cannot write the trace: {error.strerror}", where=str(path), next_step="name a file in a writable folder"
    )
