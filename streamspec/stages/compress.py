"""Stage ``compress``: the payload becomes one zstd (RFC 8878) or lz4 frame that standard tools decode.

With ``levels`` the stage has variants: the engine may choose one of them per segment.
Counts ``bytes_in``, ``bytes_out``, ``incompressible`` (the frame was no smaller) and ``too_small``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from streamspec.core.component import StageConfigBase
from streamspec.core.errors import ConfigError, DependencyUnavailable
from streamspec.core.interfaces import Segment, StageContext
from streamspec.core.paths import InputFile
from streamspec.core.units import Bytes
from streamspec.stages.by_message import describes_payload, message_spans

LEVELS = {"zstd": (-7, 22), "lz4": (0, 16)}
DEFAULT_LEVEL = {"zstd": 3, "lz4": 0}

Compressor = Callable[[memoryview], bytes]


class CompressConfig(StageConfigBase):
    """Compress the payload."""

    changes_payload: ClassVar[bool] = True

    type: Literal["compress"] = Field(description="The payload becomes one compressed frame.")
    codec: Literal["zstd", "lz4"] = Field(default="zstd", description="`zstd`: smaller; `lz4`: several times faster.")
    level: int | None = Field(
        default=None,
        description="Level (zstd -7 to 22, default 3; lz4 0 to 16, default 0). Higher is smaller and slower. Beside "
        "`levels` it says which of them is the default.",
    )
    levels: tuple[int, ...] = Field(
        default=(),
        max_length=16,
        description="Levels that the engine may choose from; the default is `level`, or the first.",
    )
    dictionary: InputFile | None = Field(
        default=None, description="A trained dictionary (zstd only); the reader needs the same one."
    )
    unit: Literal["segment", "message"] = Field(
        default="segment",
        description="`segment`: the payload becomes one frame; `message`: each message of it a frame of its own, which "
        "sinks write as a message each. Small messages in one frame come out smaller.",
    )
    min_bytes: Bytes = Field(
        default=0, ge=0, description="Smaller payloads pass unchanged and are counted as `too_small`."
    )

    @model_validator(mode="after")
    def _levels_exist(self) -> CompressConfig:
        low, high = LEVELS[self.codec]
        wrong = [level for level in self.choices if not low <= level <= high]
        if wrong:
            raise ValueError(f"level {wrong[0]} does not exist for {self.codec}; allowed: {low} to {high}")
        if self.level is not None and self.levels and self.level not in self.levels:
            raise ValueError(f"level {self.level} is none of the levels {list(self.levels)}")
        if self.dictionary is not None and self.codec != "zstd":
            raise ValueError("a dictionary needs codec: zstd")
        return self

    @property
    def choices(self) -> tuple[int, ...]:
        """The levels, by variant."""
        return self.levels or (DEFAULT_LEVEL[self.codec] if self.level is None else self.level,)

    @property
    def cost_keys(self) -> tuple[str, ...]:
        """``compress:CODEC:LEVEL`` by variant."""
        return tuple(f"compress:{self.codec}:{level}" for level in self.choices)

    @property
    def default_variant(self) -> int:
        """Index into :attr:`choices`."""
        return 0 if self.level is None else self.choices.index(self.level)

    def build(self) -> Compress:
        """The stage."""
        return Compress(self)


class Compress:
    """Implements ``Stage`` and ``OpenableStage``; contexts live as long as the worker."""

    def __init__(self, config: CompressConfig) -> None:
        self._config = config
        self._default = config.default_variant
        self._compressors: list[Compressor] = []

    def open(self) -> None:
        """Make one compressor per level. Raises DependencyUnavailable or ConfigError for a dictionary
        that cannot be read or used."""
        make = _zstd if self._config.codec == "zstd" else _lz4
        self._compressors = [make(level, self._config) for level in self._config.choices]

    def process(self, segment: Segment, context: StageContext) -> None:
        """Exchange the payload for its frame, or each of its messages for one."""
        payload = segment.payload
        variant = context.variant if 0 <= context.variant < len(self._compressors) else self._default
        compress = self._compressors[variant]
        if self._config.unit == "message" and len(segment.packets) > 1 and describes_payload(segment):
            segment.replace_messages([self._frame(payload[a:b], compress, context) for a, b in message_spans(segment)])
        else:
            frame = self._frame(payload, compress, context)
            if frame is not payload:
                segment.payload = memoryview(frame)

    def _frame(self, payload: memoryview, compress: Compressor, context: StageContext) -> bytes | memoryview:
        size = len(payload)
        if size < self._config.min_bytes:
            context.count("too_small")
            return payload
        frame = compress(payload)
        context.count("bytes_in", size)
        context.count("bytes_out", len(frame))
        if len(frame) >= size:
            context.count("incompressible")
        return frame


def _zstd(level: int, config: CompressConfig) -> Compressor:
    import zstandard

    dictionary = None if config.dictionary is None else _dictionary(config.dictionary, level)
    compress: Compressor = zstandard.ZstdCompressor(level=level, dict_data=dictionary, write_content_size=True).compress
    return compress


def _dictionary(path: Path, level: int) -> Any:
    import zstandard

    try:
        dictionary = zstandard.ZstdCompressionDict(path.read_bytes())
        dictionary.precompute_compress(level=level)
    except OSError as error:
        raise DependencyUnavailable(
            f"the dictionary cannot be read: {error.strerror}",
            where="stages.compress.dictionary",
            value=str(path),
            next_step="make it with `zstd --train`",
        ) from error
    except zstandard.ZstdError as error:
        raise ConfigError(
            f"not a zstd dictionary: {error}",
            where="stages.compress.dictionary",
            value=str(path),
            next_step="make it with `zstd --train`",
        ) from error
    return dictionary


def _lz4(level: int, config: CompressConfig) -> Compressor:
    import lz4.frame

    # One call per frame: with a kept context it takes three, and those cost 4 us more than the context saves.
    def compress(payload: memoryview) -> bytes:
        frame: bytes = lz4.frame.compress(payload, compression_level=level, store_size=True)
        return frame

    return compress
