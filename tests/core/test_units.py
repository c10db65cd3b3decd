"""Quantities as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamspec.core import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2 GiB", 2 << 30), ("64KiB", 65536), ("1.5 MB", 1_500_000), (7, 7), ("12", 12), ("3 B", 3)],
)
def test_sizes(text: object, expected: int) -> None:
    assert units.parse_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("50 ms", 0.05), ("2min", 120.0), (0.5, 0.5), ("1 h", 3600.0), ("20 us", 20e-6)]
)
def test_durations(text: object, expected: float) -> None:
    assert units.parse_seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), [("100 Mbit/s", 12_500_000), ("10 MiB/s", 10 << 20), (5, 5)])
def test_rates(text: object, expected: float) -> None:
    assert units.parse_bytes_per_second(text) == pytest.approx(expected)


@pytest.mark.parametrize("wrong", ["", "ms", "-1 ms", "5 lightyears", "1 2 MB", True, None, [1]])
def test_what_is_no_quantity_is_refused_with_the_units(wrong: object) -> None:
    for parse in (units.parse_bytes, units.parse_seconds, units.parse_bytes_per_second):
        with pytest.raises(ValueError, match=r"MiB|ms"):
            parse(wrong)


@given(st.text(max_size=20))
def test_random_text_is_a_number_or_a_value_error(text: str) -> None:
    for parse in (units.parse_bytes, units.parse_seconds, units.parse_bytes_per_second):
        try:
            assert parse(text) >= 0
        except ValueError:
            continue


def test_amounts_are_shown_with_their_unit() -> None:
    assert units.format_bytes(1536) == "1.5 KiB"
    assert units.format_bytes(12) == "12 B"
    assert units.format_bytes(3 << 40) == "3072.0 GiB"
    assert units.format_seconds(0.00123) == "1.23 ms"
    assert units.format_seconds(2e-9) == "2 ns"
    assert units.format_seconds(90.0) == "90 s"
