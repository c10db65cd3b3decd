"""What the online models look at: a few bounded numbers made of the features.

Columns up to :data:`LINEAR_INPUTS` are the inputs of the linear models; the trees see all but the constant.
"""

from __future__ import annotations

from streamspec.core.features import FEATURE_INDEX, TYPE_NAMES

SHARES: tuple[tuple[str, float, float], ...] = (
    ("entropy_bits", 1 / 8, -0.7),
    ("lz_ratio", 1.0, -0.6),
    ("repetition_share", 1.0, -0.3),
    ("top_share", 1.0, -0.1),
    ("printable_share", 1.0, -0.4),
    ("difference_entropy_bits", 1 / 8, -0.7),
    ("zero_share", 1.0, -0.1),
    ("digit_share", 1.0, -0.1),
    ("structural_share", 1.0, -0.05),
)
"""Features that go in as ``feature * scale + shift``, so that they vary around zero by less than one."""

INPUT_NAMES: tuple[str, ...] = (
    "constant",
    "log2_length",
    "log2_packets",
    "host_load",
    *(name for name, _, _ in SHARES),
)
"""``log2_length`` is ``log2(length_bytes + 1) - 12``, ``log2_packets`` is ``log2(packets + 1) - 4``."""

FIRST_SHARE = 4
LINEAR_INPUTS = FIRST_SHARE + 5
"""The linear models take the columns below this, and an indicator of each type behind them."""
INPUTS = len(INPUT_NAMES)
GROUPS = len(TYPE_NAMES)
WEIGHTS = LINEAR_INPUTS + GROUPS
"""Weights of a linear model."""

TREE_SCALES: tuple[float, ...] = (0.0, 0.1, 0.1, 1.0, *(1.0 for _ in SHARES))
"""The trees take inputs of one range (their splitter has one radius): input times this."""

LENGTH, PACKETS, TYPE = (FEATURE_INDEX[name] for name in ("length_bytes", "packets", "type_code"))
