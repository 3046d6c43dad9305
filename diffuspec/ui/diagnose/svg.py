"""The report's pictures as SVG that needs no script: bars, bars with intervals, points with intervals, lines.

Colours are the theme's (`var(--ds-...)`), so that a picture follows the page it stands on; text is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

WIDTH, BAR, LABEL, VALUE = 720, 24, 250, 120
HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 300, 52, 40, 14, 16
COLOURS = ("accepted", "correction", "bonus", "average", "quiet", "ink")
DASHES = ("", "6 4", "2 3", "8 3 2 3", "1 4", "10 4")
SHAPES = ("circle", "square", "triangle", "diamond", "circle", "square")


@dataclass(frozen=True)
class Mark:
    """A point or bar: value, its interval where it has one, what is written beside it."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    colour: str = "accepted"


def _text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'


def _line(x1, y1, x2, y2, kind: str, extra: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}" {extra}/>'


def _svg(height: float, body: Sequence[str], label: str, width: int = WIDTH) -> str:
    return (
        f'<svg class="ds-svg" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(body)}</svg>"
    )


def bars(marks: Sequence[Mark], label: str, line: float | None = None) -> str:
    """Horizontal bars from 0, or points with intervals around `line`, one below the other."""
    values = [x for m in marks for x in (m.value, m.low, m.high) if x is not None]
    low, high = (min(values), max(values)) if values else (0, 1)
    if line is None:
        low, high = min(low, 0.0), max(high, 1e-9)
    else:
        low, high = min(low, line), max(high, line)
        pad = max((high - low) * 0.06, 0.01)
        low, high = low - pad, high + pad
    room = WIDTH - LABEL - VALUE

    def at(value: float) -> float:
        return LABEL + room * (value - low) / (high - low)

    body = []
    for place, mark in enumerate(marks):
        y = place * BAR + BAR / 2
        body.append(_text(LABEL - 10, y + 4, mark.label, "end"))
        paint = f'style="--c: var(--ds-{mark.colour})"'
        if line is None:
            x, wide = min(at(0), at(mark.value)), abs(at(mark.value) - at(0))
            body.append(f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="{max(wide, 1):.1f}" height="16" rx="2" {paint}/>')
        if mark.low is not None and mark.high is not None:
            kind = "whisker" if line is None else "range"
            body.append(_line(at(mark.low), y, at(mark.high), y, kind, paint))
        if line is not None:
            body.append(f'<circle cx="{at(mark.value):.1f}" cy="{y:.1f}" r="5" {paint}/>')
        body.append(_text(WIDTH - VALUE + 10, y + 4, mark.text or f"{mark.value:.2f}", kind="soft"))
    height = len(marks) * BAR
    body.insert(0, _line(at(line or 0.0), 0, at(line or 0.0), height, "axis"))
    return _svg(max(height, BAR), body, label)


def _ticks(low: float, high: float) -> list[float]:
    span = (high - low) or 1.0
    size = 10 ** floor(log10(span / 4))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= 6)
    first = -floor(-low / step)
    return [round(i * step, 10) for i in range(int(first), int(floor(high / step)) + 1)]


class _Plot:
    """Axes and a frame; x and y as shares where `percent`."""

    def __init__(self, xs, ys, x_title: str, y_title: str, percent: tuple[bool, bool] = (False, False), steps=None):
        self.body: list[str] = []
        self.steps = steps  # names of places, evenly spaced, instead of numbers
        self.x = (min(xs, default=0), max(xs, default=1)) if steps is None else (-0.4, len(steps) - 0.6)
        self.y = min(ys, default=0), max(ys, default=1)
        if self.x[0] == self.x[1]:
            self.x = self.x[0] - 0.5, self.x[1] + 0.5
        if self.y[0] == self.y[1]:
            self.y = self.y[0] - 0.5, self.y[1] + 0.5
        for tick in _ticks(*self.y):
            self.body.append(_line(LEFT, self.at_y(tick), WIDTH - RIGHT, self.at_y(tick), "grid"))
            words = f"{tick:.0%}" if percent[1] else f"{tick:g}"
            self.body.append(_text(LEFT - 6, self.at_y(tick) + 4, words, "end", "soft"))
        for place, tick in enumerate(range(len(steps)) if steps is not None else _ticks(*self.x)):
            words = str(steps[place]) if steps is not None else f"{tick:.0%}" if percent[0] else f"{tick:g}"
            self.body.append(_text(self.at_x(tick), HEIGHT - BOTTOM + 16, words, "middle", "soft"))
        self.body.append(_line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
        self.body.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_title, "middle", "soft"))
        self.body.append(_text(LEFT, TOP - 3, y_title, "start", "soft"))

    def at_x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x[0]) / (self.x[1] - self.x[0])

    def at_y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP - 6) * (value - self.y[0]) / (self.y[1] - self.y[0])

    def mark(self, x: float, y: float, place: int, size: float = 5) -> None:
        paint = f'style="--c: var(--ds-{COLOURS[place % len(COLOURS)]})"'
        px, py = self.at_x(x), self.at_y(y)
        shape = SHAPES[place % len(SHAPES)]
        if shape == "circle":
            self.body.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="{size:.1f}" {paint}/>')
            return
        corners = {
            "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
            "triangle": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
            "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        }[shape]
        points = " ".join(f"{px + dx * size:.1f},{py + dy * size:.1f}" for dx, dy in corners)
        self.body.append(f'<polygon points="{points}" {paint}/>')


def lines(
    series: dict[str, Sequence[tuple[float, float]]],
    label: str,
    x_title: str,
    y_title: str,
    *,
    percent: tuple[bool, bool] = (False, False),
    diagonal: bool = False,
    steps: Sequence[object] | None = None,
    from_zero: bool = True,
) -> str:
    """Named lines with a legend; diagonal: where y = x. steps: names of evenly spaced places, x then counts them."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    if diagonal:
        xs, ys = [0.0, 1.0], [0.0, 1.0]
    elif from_zero:
        ys = [0.0, *ys]
    plot = _Plot(xs, ys, x_title, y_title, percent, steps)
    if diagonal:
        plot.body.append(
            _line(plot.at_x(0), plot.at_y(0), plot.at_x(1), plot.at_y(1), "axis", 'stroke-dasharray="4 4"')
        )
    for place, points in enumerate(series.values()):
        colour = COLOURS[place % len(COLOURS)]
        way = " ".join(f"{plot.at_x(x):.1f},{plot.at_y(y):.1f}" for x, y in points)
        plot.body.append(
            f'<polyline points="{way}" style="--c: var(--ds-{colour})" stroke-dasharray="{DASHES[place % 6]}"/>'
        )
        for x, y in points:
            plot.mark(x, y, place, 4)
    return _svg(HEIGHT, plot.body, label) + legend(series)


def points(marks: Sequence[tuple[str, Mark]], label: str, x_title: str, y_title: str, line: float | None = None) -> str:
    """Of each name a mark: x is its label, as a number, y its value with its interval."""
    xs = [float(mark.label) for _, mark in marks]
    ys = [y for _, m in marks for y in (m.value, m.low, m.high) if y is not None]
    plot = _Plot([0.0, *xs, 1.05 * max(xs, default=1)], [*ys, *([line] if line is not None else [])], x_title, y_title)
    if line is not None:
        plot.body.append(_line(LEFT, plot.at_y(line), WIDTH - RIGHT, plot.at_y(line), "axis", 'stroke-dasharray="4 4"'))
    for place, (_, m) in enumerate(marks):
        x = float(m.label)
        if m.low is not None and m.high is not None:
            paint = f'style="--c: var(--ds-{COLOURS[place % len(COLOURS)]})"'
            plot.body.append(_line(plot.at_x(x), plot.at_y(m.low), plot.at_x(x), plot.at_y(m.high), "range", paint))
        plot.mark(x, m.value, place, 6)
    return _svg(HEIGHT, plot.body, label) + legend([name for name, _ in marks])


def legend(names) -> str:
    parts = []
    for place, name in enumerate(names):
        plot = _Plot.__new__(_Plot)
        plot.body, plot.x, plot.y = [], (0, 1), (0, 1)
        plot.at_x, plot.at_y = (lambda x: 8.0), (lambda y: 8.0)
        plot.mark(0, 0, place, 5)
        parts.append(
            f'<li><svg viewBox="0 0 16 16" aria-hidden="true" class="ds-svg">{plot.body[0]}</svg>{escape(name)}</li>'
        )
    return f'<ul class="ds-legend">{"".join(parts)}</ul>'
