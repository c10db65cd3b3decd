"""The feature schema as data: what the profiler says about each segment, column by column.

A stored model names :data:`FEATURE_SCHEMA_VERSION`, the version it was trained for. Any change of a column's
place, meaning, unit or range raises it. All columns are ``float32`` and finite for every input; an empty
segment has zeros beside its type.

What is counted is the segment's payload region as it is: for captured packets that includes their headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FEATURE_SCHEMA_VERSION = 1

TYPE_NAMES: tuple[str, ...] = (
    "unknown",
    "tls",
    "quic",
    "ssh",
    "dns",
    "http",
    "json",
    "csv",
    "syslog",
    "protobuf",
    "compressed",
    "image",
    "executable",
    "padding",
)
"""Kinds of content; the feature ``type_code`` is the index. ``compressed`` is gzip, zstd and their like."""

TYPE_CODES: dict[str, int] = {name: code for code, name in enumerate(TYPE_NAMES)}
"""The code of each name in :data:`TYPE_NAMES`."""

INFER_TYPE = -1
"""In place of a type code: not declared, to be inferred."""

MAX_PATTERN_GROUPS = 16
"""Most groups of user patterns, and so the longest ``patterns`` vector beside the features."""

HISTOGRAM_BINS = 16
"""Equal bins over the byte values, 16 values each."""

Sampling = Literal["exact", "estimate", "lower_bound", "probe"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column.

    Attributes:
        name: of the column; never reused for another meaning.
        unit: ``bytes``, ``packets``, ``bits``, ``values`` (byte values 0 to 255), ``share`` (0 to 1) or ``code``.
        low: smallest value it can take.
        high: largest value it can take.
        sampling: what the value is when the segment is longer than ``sample_bytes``: ``exact``, an ``estimate``,
            a bound (``lower_bound``: more may be found by reading on), or a ``probe``, which reads the same
            few bytes whether the rest is sampled or not.
        description: what it says.
    """

    name: str
    unit: str
    low: float
    high: float
    sampling: Sampling
    description: str


_LONGEST = float(2**32 - 1)


def _share(name: str, description: str, sampling: Sampling = "estimate") -> Feature:
    return Feature(f"{name}_share", "share", 0.0, 1.0, sampling, description)


FEATURES: tuple[Feature, ...] = (
    Feature("length_bytes", "bytes", 0.0, _LONGEST, "exact", "bytes in the segment"),
    Feature("packets", "packets", 0.0, _LONGEST, "exact", "packets or messages in the segment"),
    Feature("entropy_bits", "bits", 0.0, 8.0, "estimate", "Shannon entropy of a byte"),
    Feature("difference_entropy_bits", "bits", 0.0, 8.0, "estimate", "Shannon entropy of byte minus previous byte"),
    Feature("minimum", "values", 0.0, 255.0, "lower_bound", "smallest byte value; the true one may be smaller"),
    Feature("maximum", "values", 0.0, 255.0, "lower_bound", "largest byte value; the true one may be larger"),
    Feature("mean", "values", 0.0, 255.0, "estimate", "mean byte value"),
    Feature("variance", "values", 0.0, 16256.25, "estimate", "variance of the byte value (values squared)"),
    Feature("distinct_values", "values", 0.0, 256.0, "lower_bound", "different byte values that occur"),
    _share("top", "share of the most frequent byte value"),
    *(
        _share(f"bin_{index:02d}", f"share of byte values {index * 16} to {index * 16 + 15}")
        for index in range(HISTOGRAM_BINS)
    ),
    _share("zero", "share of zero bytes"),
    _share("printable", "share of printable ASCII, 0x20 to 0x7e"),
    _share("digit", "share of 0 to 9"),
    _share("upper", "share of A to Z"),
    _share("lower", "share of a to z"),
    _share("newline", "share of line feed and carriage return"),
    _share("separator", "share of space, tab, comma, semicolon, vertical bar, equals sign and ampersand"),
    _share("structural", "share of JSON's structural characters: braces, brackets, quote, colon, comma"),
    Feature(
        "base64_longest_bytes",
        "bytes",
        0.0,
        _LONGEST,
        "estimate",
        "longest run of characters of base64 and base64url, 0 if below 16",
    ),
    _share("base64_run", "share of bytes in such runs of 16 and more"),
    Feature(
        "alphanumeric_longest_bytes",
        "bytes",
        0.0,
        _LONGEST,
        "estimate",
        "longest run of ASCII letters and digits, 0 if below 8",
    ),
    _share("alphanumeric_run", "share of bytes in such runs of 8 and more"),
    _share("utf8_valid", "share of bytes that are where well-formed UTF-8 would have them; 1 for valid text"),
    _share("repetition", "share of 4-byte sequences read that occurred before", "lower_bound"),
    Feature(
        "lz_ratio",
        "share",
        0.0,
        1.0,
        "probe",
        "output by input of a compressor that copies what repeats in the probed bytes; 1 when nothing does",
    ),
    Feature("period_bytes", "bytes", 0.0, 64.0, "probe", "lag (2 to 64) at which bytes repeat best, 0 if none does"),
    _share("period", "strength of that lag: 0 as at any other lag, 1 all equal there", "probe"),
    Feature(
        "type_code",
        "code",
        0.0,
        float(len(TYPE_NAMES) - 1),
        "probe",
        "index into TYPE_NAMES: as declared, or inferred",
    ),
)
"""The columns in order."""

FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
FEATURE_COUNT = len(FEATURE_NAMES)
FEATURE_INDEX: dict[str, int] = {name: index for index, name in enumerate(FEATURE_NAMES)}
"""Column of each name."""
