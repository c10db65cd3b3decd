"""Amounts of resources: what a stage asks for, and what a lane is given."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """What a stage asks for. Zero means "no particular amount"."""

    threads: int = 1
    cache_bytes: int = 0
    gpu_memory_bytes: int = 0
    bytes_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one lane is given; a policy proposes one, the engine applies the difference.

    Attributes:
        workers: warm workers assigned to the lane, at least 1 unless the lane is closed.
        nice: nice level of those workers, -20 (urgent) to 19.
        cores: CPU numbers they may use; empty means all that the process may use.
        batch: most segments handed to a worker in one message, 1 to 256.
        bytes_per_second: egress bandwidth; 0 means no limit of its own.
        cache_bytes: caches of the lane's workers together; 0 leaves them as configured.
        gpu_memory_bytes: GPU memory of the lane's workers together; 0 means none is set aside.
    """

    workers: int = 1
    nice: int = 0
    cores: frozenset[int] = field(default_factory=frozenset)
    batch: int = 16
    bytes_per_second: float = 0.0
    cache_bytes: int = 0
    gpu_memory_bytes: int = 0
