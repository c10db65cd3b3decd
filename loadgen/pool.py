"""Messages made beforehand, one behind the other in memory, with their CRCs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from loadgen.kinds import KINDS, Kind
from loadgen.scenario import PoolLimits, Scenario
from loadgen.sizes import Size

_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


@dataclass(frozen=True)
class Pool:
    """Bodies of messages.

    Attributes:
        memory: uint8, all bodies.
        offsets: int64, shape ``(messages,)``, first byte of each body in :attr:`memory`.
        lengths: int32, shape ``(messages,)``, bytes of each body, without marker.
        crcs: uint32, shape ``(messages,)``, ``zlib.crc32`` of each body.
        kinds: int16, shape ``(messages,)``, index into :attr:`kind_names`.
    """

    memory: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    crcs: npt.NDArray[np.uint32]
    kinds: npt.NDArray[np.int16]
    kind_names: tuple[str, ...]

    @property
    def columns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.uint32]]:
        """``(offsets, lengths, crcs)``, as kernels take them."""
        return self.offsets, self.lengths, self.crcs


def make_pool(
    bodies: Sequence[bytes], kinds: Sequence[int], kind_names: tuple[str, ...], *, lines: bool = False
) -> Pool:
    """A pool of these bodies; with ``lines``, carriage returns and newlines in them become spaces."""
    if lines:
        bodies = [body.translate(_NO_LINE_ENDS) for body in bodies]
    lengths = np.array([len(body) for body in bodies], dtype=np.int32)
    offsets = np.zeros(len(bodies), dtype=np.int64)
    np.cumsum(lengths[:-1], out=offsets[1:])
    return Pool(
        memory=np.frombuffer(b"".join(bodies) or b"\0", dtype=np.uint8).copy(),
        offsets=offsets,
        lengths=lengths,
        crcs=np.array([zlib.crc32(body) for body in bodies], dtype=np.uint32),
        kinds=np.array(kinds, dtype=np.int16),
        kind_names=kind_names,
    )


@dataclass(frozen=True)
class ScenarioPool:
    """A pool for a scenario: each pair of kind and size distribution has a range of it."""

    pool: Pool
    ranges: dict[tuple[str, str], range]

    def of(self, kind: str, size: Size) -> range:
        """Messages of this kind with these sizes."""
        return self.ranges[kind, size.model_dump_json()]


def generate_bodies(
    kind: Kind, size: Size, limits: PoolLimits, seed: int, *, marker_bytes: int, largest_bytes: int
) -> list[bytes]:
    """Bodies of one kind, in random order; each with its marker has a size that ``size`` gives, as near
    as the format allows."""
    sizes = size.pool_sizes(limits.messages, kind.median_bytes, kind.sigma)
    most = min(kind.largest_bytes, largest_bytes - marker_bytes)
    sizes = np.clip(sizes - marker_bytes, kind.smallest_bytes, max(kind.smallest_bytes, most))
    rng = Random(f"{seed}:{kind.name}")
    # Shuffled before the cut: a pool that hits its limit of bytes still has small and large ones.
    shuffled = rng.sample(sizes.tolist(), len(sizes))
    kept = max(1, int(np.searchsorted(np.cumsum(shuffled), limits.bytes)))
    return [kind.generate(rng, length) for length in shuffled[:kept]]


def scenario_pool(scenario: Scenario, *, marker_bytes: int, largest_bytes: int, lines: bool) -> ScenarioPool:
    """All bodies that ``scenario`` sends; the same seed gives the same bodies."""
    names = tuple(KINDS)
    bodies: list[bytes] = []
    kinds: list[int] = []
    ranges: dict[tuple[str, str], range] = {}
    for phase in scenario.phases:
        for name in phase.mix:
            size = phase.size_of(name)
            spot = (name, size.model_dump_json())
            if spot in ranges:
                continue
            made = generate_bodies(
                KINDS[name],
                size,
                scenario.pool,
                scenario.seed,
                marker_bytes=marker_bytes,
                largest_bytes=largest_bytes,
            )
            ranges[spot] = range(len(bodies), len(bodies) + len(made))
            bodies += made
            kinds += [names.index(name)] * len(made)
    return ScenarioPool(make_pool(bodies, kinds, names, lines=lines), ranges)
