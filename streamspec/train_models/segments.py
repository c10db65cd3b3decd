"""What to measure: captures cut as the service would cut them, and other files in pieces, as messages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from streamspec.config.models import EngineConfig
from streamspec.core.errors import DependencyUnavailable, UsageError
from streamspec.core.segment import SlotLayout
from streamspec.profile_files import read_capture
from streamspec.profiler.profiler import Content
from streamspec.profiler.report import cut_file

SMALLEST_CUT_BYTES = 4096
FURTHER_CUTS = (1, 2, 4, 16)
"""Training sees segments of the configured size and of fractions of it: those that linger closes are shorter."""
SHARE_OF_FURTHER_CUTS = 2
"""Of each fraction a random part, so many times as many as there are whole segments: more small ones would have the
trees spend their leaves on what costs little."""


@dataclass(frozen=True)
class SourceFile:
    """One file to learn from or to be judged by.

    Attributes:
        path: of it.
        digest: of its content, 16 hexadecimal digits of SHA-256.
        message: it is one of the payload files, not a capture.
    """

    path: Path
    digest: str
    message: bool = False


@dataclass(frozen=True)
class CutSegment:
    """One segment, with the number of its file; ``counts`` when it is cut as the service would cut it."""

    content: Content
    file: int
    counts: bool


def find_files(captures: Sequence[Path], payloads: Path | None) -> list[SourceFile]:
    """All files, folders with everything in them, in order of names; a file that occurs twice is taken once.

    Raises:
        DependencyUnavailable: one cannot be read.
        UsageError: there is none.
    """
    found: dict[str, SourceFile] = {}
    for path in _flat(captures):
        digest = _digest(path)
        found.setdefault(digest, SourceFile(path, digest))
    for path in _flat([payloads] if payloads is not None else []):
        digest = _digest(path)
        found.setdefault(digest, SourceFile(path, digest, message=True))
    if not found:
        raise UsageError("no file to read", where="train", next_step="name captures or folders of them")
    return list(found.values())


def _flat(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file())
        else:
            yield path


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise DependencyUnavailable(
            f"cannot read the file: {error.strerror}", where=str(path), next_step="name a file that exists"
        ) from error


def cut_sizes(engine: EngineConfig, cuts: Sequence[int] = FURTHER_CUTS) -> list[int]:
    """Segment sizes to cut, the configured one first."""
    sizes = [max(engine.segment_bytes // part, SMALLEST_CUT_BYTES) for part in cuts]
    return list(dict.fromkeys(min(size, engine.payload_bytes) for size in sizes))


def cut_files(
    files: Sequence[SourceFile], engine: EngineConfig, cuts: Sequence[int] = FURTHER_CUTS
) -> Iterator[list[CutSegment]]:
    """The segments of each size in turn. What is no capture is left out, unless it is a payload file."""
    layout = replace(engine.layout, output_bytes=64)
    most = 0
    for place, size in enumerate(cut_sizes(engine, cuts)):
        segments: list[CutSegment] = []
        for number, file in enumerate(files):
            segments += [CutSegment(content, number, place == 0) for content in _cut(file, size, layout)]
        most = most or SHARE_OF_FURTHER_CUTS * len(segments)
        if place and len(segments) > most > 0:
            chosen = np.random.default_rng(place).choice(len(segments), most, replace=False)
            segments = [segments[index] for index in np.sort(chosen)]
        yield segments


def _cut(file: SourceFile, size: int, layout: SlotLayout) -> list[Content]:
    found: list[Content] = []
    if file.message or not read_capture(file.path, size, layout, found.append):
        return [content for _, content in cut_file(file.path, size)] if file.message else []
    return [content for content in found if len(content.payload)]
