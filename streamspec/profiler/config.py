"""Configuration of the profiler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from streamspec.core.component import ComponentConfig
from streamspec.core.features import MAX_PATTERN_GROUPS, TYPE_CODES
from streamspec.core.units import Bytes

if TYPE_CHECKING:
    from streamspec.profiler.profiler import Profiler

SMALLEST_SAMPLE_BYTES = 1024
MAX_EXPRESSIONS_PER_GROUP = 64

GroupName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Expressions = Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_EXPRESSIONS_PER_GROUP)]


class ProfilerConfig(ComponentConfig):
    """How closely segments are looked at."""

    enabled: bool = Field(
        default=True,
        description="Look into segments. Off saves 5 to 15 us of the dispatcher per segment; nothing is predicted or "
        "learned then, and lanes stay as configured.",
    )
    sample_bytes: Bytes = Field(
        default=4096,
        description="Bytes read of a longer segment, in blocks of 128 spread over it (1024 and up; 0 reads every "
        "byte). More makes the features of long segments more accurate and costs about 2 us per KiB: with 4 KiB the "
        "entropy of a segment of 64 KiB is off by 0.07 bits on average, with 8 KiB by 0.05.",
    )
    patterns: dict[GroupName, Expressions] = Field(
        default={},
        max_length=MAX_PATTERN_GROUPS,
        description="Regular expressions in named groups (up to 16 groups of up to 64); the matches of each group "
        "are counted as a further feature, up to 64 in all. Adds 2 to 20 us per segment.",
    )
    pattern_bytes: Bytes = Field(
        default=4096,
        description="Bytes from the start of a segment that are searched for patterns (1 and up; 0 searches all).",
    )

    device: Literal["auto", "cpu", "gpu"] = Field(
        default="cpu",
        description="Who counts the bytes of segments that are read whole (all of them with `sample_bytes: 0`): `cpu`; "
        "`gpu`, and the CPU where there is none; `auto`: for each batch the one that is expected to be faster. "
        "Features are the same. The dispatcher has a context on the device then. Needs the extra `gpu`.",
    )

    @field_validator("sample_bytes")
    @classmethod
    def _is_enough(cls, value: int) -> int:
        if 0 < value < SMALLEST_SAMPLE_BYTES:
            raise ValueError(f"a sample of {value} bytes tells too little; use 0 for every byte, or 1024 and up")
        return value

    def build(self, declared: Mapping[int, str] | None = None) -> Profiler:
        """The profiler, its patterns compiled.

        Args:
            declared: type name (one of ``TYPE_NAMES``) by index of the source, for sources that declare one.

        Raises:
            ConfigError: a pattern cannot be compiled.
        """
        from streamspec.profiler.patterns import PatternCounter
        from streamspec.profiler.profiler import Profiler

        patterns = PatternCounter(self.patterns, scan_bytes=self.pattern_bytes) if self.patterns else None
        codes = {source: TYPE_CODES[name] for source, name in (declared or {}).items()}
        return Profiler(sample_bytes=self.sample_bytes, declared=codes, patterns=patterns, device=self.device)
