"""Small bar charts as SVG, the same for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 760, 220, 110, 26, 44
LOGARITHMIC_FROM = 30.0
OURS_COLOUR, PEER_COLOUR = "#1f6f8b", "#b5bfc6"


@dataclass(frozen=True)
class Bar:
    """A median and its spread."""

    name: str
    value: float
    low: float
    high: float
    text: str
    ours: bool = False


def bar_chart(title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars; logarithmic when they differ by more than thirty times. Lines show smallest and largest."""
    shown = [bar for bar in bars if bar.value > 0]
    largest = max(bar.high for bar in shown)
    smallest = min(bar.low if bar.low > 0 else bar.value for bar in shown)
    logarithmic = largest / smallest > LOGARITHMIC_FROM
    floor = 10 ** math.floor(math.log10(smallest) - 0.3) if logarithmic else 0.0
    room = WIDTH - LEFT - RIGHT

    def place(value: float) -> float:
        if logarithmic:
            return LEFT + room * math.log(max(value, floor) / floor) / math.log(largest / floor)
        return LEFT + room * value / largest

    height = TOP + ROW * len(shown) + 12
    scale = ", logarithmic" if logarithmic else ""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" fill="#222222">{escape(title)} ({escape(unit)}{scale})</text>',
    ]
    for number, bar in enumerate(shown):
        parts += _bar(bar, TOP + ROW * number, place(bar.value), place(bar.low), place(bar.high))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _bar(bar: Bar, top: int, end: float, low: float, high: float) -> list[str]:
    colour = OURS_COLOUR if bar.ours else PEER_COLOUR
    middle = top + ROW // 2
    return [
        f'<text x="{LEFT - 8}" y="{middle + 2}" text-anchor="end" fill="#222222">{escape(bar.name)}</text>',
        f'<rect x="{LEFT}" y="{top + 3}" width="{max(end - LEFT, 1):.1f}" height="{ROW - 10}" fill="{colour}"/>',
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle - 2}" y2="{middle - 2}" stroke="#222222"/>',
        f'<text x="{max(end, high) + 6:.1f}" y="{middle + 2}" fill="#222222">{escape(bar.text)}</text>',
    ]
