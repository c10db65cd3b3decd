"""Segments of real captures, read with dpkt, as tests and benchmarks of the profiler share them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest

from streamspec.profiler.profiler import Profiler

# Made while tests are collected: compiling the kernels, once per machine, must not run into a test's time limit.
_WHOLE, _SAMPLING = Profiler(sample_bytes=0), Profiler()


@pytest.fixture
def whole() -> Profiler:
    """A profiler that reads every byte."""
    return _WHOLE


@pytest.fixture
def sampling() -> Profiler:
    """A profiler as configured by default."""
    return _SAMPLING


def read_capture(path: Path) -> Iterator[tuple[int, bytes]]:
    """``(link type, packet)`` of a capture file; ends where it is damaged."""
    with path.open("rb") as file:
        try:
            reader = dpkt.pcap.UniversalReader(file)
            for _, packet in reader:
                yield reader.datalink(), packet
        except (ValueError, dpkt.Error, OSError, AttributeError, KeyError):
            return


def manifest(folder: Path) -> list[dict[str, str]]:
    """The well-formed captures of the folder."""
    with (folder / "MANIFEST.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["malformed"] == "0"]
