"""Plots as SVG in the page itself: lines and bands with axes, no more.

Made by hand, because colours then come from the page's own style sheet and follow light and dark, text is text, and a
plot takes a few kilobytes; matplotlib's SVG fixes its colours and draws its letters as outlines. A plot has a name and
a description for those who do not see it, and the page puts a table behind it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 380, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 16, 40

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with a word beside it. show: how a tick is written. decades: ticks at powers of ten."""

    label: str
    low: float
    high: float
    show: Callable[[float], str] = lambda value: f"{value:g}"
    decades: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 to 1."""
        low, high, value = (
            (map(math.log10, (self.low, self.high, value)))
            if self.decades
            else (
                self.low,
                self.high,
                value,
            )
        )
        return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5

    @property
    def ticks(self) -> list[float]:
        if self.decades:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)] if first <= last else [self.low, self.high]
        return ticks(self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Line:
    """`look`: its class in the style sheet. `name`: told when a pointer rests on it."""

    points: Points
    look: str = "main"
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Band:
    """From (x, low) to (x, high)."""

    points: Sequence[tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line, with a word at its head."""

    x: float
    label: str


@dataclasses.dataclass(frozen=True)
class Bars:
    """Heights 0 to 1 of bars of equal width over the whole axis, drawn from the foot up to a share `most` of it."""

    heights: Sequence[float]
    most: float = 0.18


@dataclasses.dataclass(frozen=True)
class Plot:
    """What to draw, and what it shows in words."""

    title: str
    says: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    bars: Bars | None = None
    diagonal: bool = False

    def svg(self, name: str) -> Markup:
        """As an element of the page; `name` is an id that nothing else on it has."""
        parts = [
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">',
            f'<title id="{name}-t">{escape(self.title)}</title><desc id="{name}-d">{escape(self.says)}</desc>',
            *self._grid(),
            *self._bars(),
            *(self._band(band) for band in self.bands),
            *(self._mark(mark) for mark in self.marks),
            *(self._line(line) for line in self.lines),
            "</svg>",
        ]
        return Markup("".join(parts))  # every text in it was escaped above and below

    def _x(self, value: float) -> float:
        return _LEFT + self.x.share(value) * (WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - self.y.share(value) * (HEIGHT - _TOP - _BOTTOM)

    def _grid(self) -> list[str]:
        foot, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        drawn = []
        for tick in self.y.ticks:
            y = self._y(tick)
            drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" class="end">{escape(self.y.show(tick))}</text>')
        for tick in self.x.ticks:
            x = self._x(tick)
            drawn.append(f'<text x="{x:.1f}" y="{foot + 17}" class="middle">{escape(self.x.show(tick))}</text>')
        drawn.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{foot}" y2="{foot}"/>')
        drawn.append(f'<text x="{right}" y="{HEIGHT - 5}" class="end word">{escape(self.x.label)}</text>')
        drawn.append(f'<text x="{_LEFT}" y="{_TOP - 5}" class="word">{escape(self.y.label)}</text>')
        if self.diagonal:
            ends = f'x1="{_LEFT}" y1="{foot}" x2="{right}" y2="{_TOP}"'
            drawn.append(f'<line class="ideal" {ends}/>')
        return drawn

    def _bars(self) -> list[str]:
        if self.bars is None:
            return []
        foot, high = HEIGHT - _BOTTOM, (HEIGHT - _TOP - _BOTTOM) * self.bars.most
        wide = (WIDTH - _LEFT - _RIGHT) / len(self.bars.heights)
        return [
            f'<rect class="bar" x="{_LEFT + i * wide:.1f}" y="{foot - height * high:.1f}" width="{wide - 0.6:.1f}" '
            f'height="{height * high:.1f}"/>'
            for i, height in enumerate(self.bars.heights)
            if height > 0
        ]

    def _band(self, band: Band) -> str:
        there = [f"{self._x(x):.1f},{self._y(high):.1f}" for x, _, high in band.points]
        back = [f"{self._x(x):.1f},{self._y(low):.1f}" for x, low, _ in reversed(band.points)]
        return f'<polygon class="band" points="{" ".join(there + back)}"/>'

    def _mark(self, mark: Mark) -> str:
        x, foot = self._x(mark.x), HEIGHT - _BOTTOM
        late = x > WIDTH * 0.75
        word = f'<text x="{x + (-4 if late else 4):.1f}" y="{_TOP - 5}" class="word{" end" if late else ""}">'
        line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{foot}"/>'
        return f"{line}{word}{escape(mark.label)}</text>"

    def _line(self, line: Line) -> str:
        name = f"<title>{escape(line.name)}</title>" if line.name else ""
        if len(line.points) == 1:
            ((x, y),) = line.points
            return (
                f'<circle class="line {line.look}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="2.5">{name}</circle>'
            )
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in line.points)
        return f'<polyline class="line {line.look}" points="{points}">{name}</polyline>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between the ends, at most so many and one more."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def fitting(
    label: str, values: Sequence[float], show: Callable[[float], str] = lambda v: f"{v:g}", zero: bool = False
) -> Axis:
    """An axis that all values fit on, ending at round numbers."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if zero:
        low = min(0.0, low)
    if high <= low:
        low, high = low - abs(low) * 0.1 - 1e-6 * (low == 0), high + abs(high) * 0.1 + 1e-6 * (high == 0)
    inside = ticks(low, high)
    step = next((b - a for a, b in pairwise(inside)), high - low)
    return Axis(label, math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, show)


def percent(value: float) -> str:
    """A share as a tick."""
    return f"{100 * value:g}%"
