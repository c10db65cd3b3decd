"""From files to samples: cut, run through the chain, and put together, with a progress bar for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamspec.config import ServiceConfig, load_config
from streamspec.core.errors import UsageError
from streamspec.profiles.training import Samples
from streamspec.train_models.measuring import ChainBench
from streamspec.train_models.segments import FURTHER_CUTS, SourceFile, cut_files

if TYPE_CHECKING:
    from rich.progress import Progress


DEFAULT_CHAIN = Path(__file__).parents[1] / "demo" / "demo.yaml"
"""Whose stages are trained for when no configuration is named: inspect, and compress at three levels."""


@dataclass(frozen=True)
class Collected:
    """Samples, and the files that they are of (``samples.group`` numbers these)."""

    samples: Samples
    files: tuple[SourceFile, ...]

    @property
    def used(self) -> list[SourceFile]:
        """Files with at least one segment."""
        return [self.files[number] for number in np.unique(self.samples.group)]


def chain_config(path: Path | None) -> ServiceConfig:
    """The configuration whose chain is meant: a file, or that of ``streamspec demo`` (inspect and compress).

    Raises:
        UsageError: it has no stages.
    """
    loaded = load_config(path if path is not None else DEFAULT_CHAIN)
    if not loaded.stages:
        raise UsageError("the configuration has no stages, so there is nothing to learn", where=str(path))
    return loaded


def collect(
    files: Sequence[SourceFile],
    config: ServiceConfig,
    *,
    repetitions: int = 5,
    every_byte: bool = False,
    cuts: Sequence[int] = FURTHER_CUTS,
    progress: Progress | None = None,
) -> Collected:
    """Measure the segments of these files.

    Args:
        files: to cut.
        config: chain, sizes and profiler.
        repetitions: turns of each variant.
        every_byte: profile all of long segments.
        cuts: parts of the configured segment size that are cut too.
        progress: gets a bar for each size of segment.

    Raises:
        UsageError: the files hold no segment.
    """
    bench = ChainBench(config, repetitions=repetitions, every_byte=every_byte)
    features, values, groups, counts = [], [], [], []
    try:
        for segments in cut_files(files, config.engine, cuts):
            if not segments:
                continue
            contents = [segment.content for segment in segments]
            if progress is not None:
                largest = max(len(content.payload) for content in contents)
                bar = progress.add_task(
                    f"{len(contents)} segments to {largest} bytes", total=len(contents) * bench.turns
                )
                measured = bench.measure(contents, lambda count, bar=bar: progress.advance(bar, count))  # type: ignore[misc]
            else:
                measured = bench.measure(contents)
            features.append(measured.features)
            values.append(measured.values)
            groups += [segment.file for segment in segments]
            counts += [segment.counts for segment in segments]
    finally:
        bench.close()
    if not features:
        raise UsageError("the files hold no segment", where="train", next_step="name captures (pcap, pcapng)")
    samples = Samples(
        np.concatenate(features),
        bench.names,
        np.concatenate(values),
        np.array(groups, dtype=np.int64),
        np.array(counts),
    )
    return Collected(samples, tuple(files))


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress | None]:
    """A progress bar on standard error; None when ``quiet`` or when nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress
