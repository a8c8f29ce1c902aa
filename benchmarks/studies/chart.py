"""Line plots and bar charts with intervals over seeds, as SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from studies.record import Estimate, estimate

__all__ = ["Bars", "Panel", "bars_svg", "lines_svg"]

_WIDTH, _HEIGHT = 340, 240  # of a panel, labels included
_LEFT, _TOP, _BOTTOM, _RIGHT = 46, 34, 40, 14
_COLOURS = ("#1b7f5c", "#b5542c", "#3d5a98")
_LETTER = 5.9  # pixels: mean width of a letter of the notes


@dataclass(frozen=True)
class Panel:
    """One plot: named lines over the same numbers; values are shares from 0 to 1."""

    title: str
    lines: Mapping[str, Mapping[float, Sequence[float]]]  # name -> x -> a value for each seed


@dataclass(frozen=True)
class Bars:
    """A bar for each name; values are shares from 0 to 1, one a seed."""

    title: str
    bars: Mapping[str, Sequence[float]]


def lines_svg(
    title: str, x_label: str, panels: Sequence[Panel], notes: Sequence[str], columns: int = 3
) -> str:
    """Panels in rows of `columns`, with a heading above and notes below."""
    body: list[str] = []
    y = 36
    for first in range(0, len(panels), columns):
        for column, panel in enumerate(panels[first : first + columns]):
            body.append(f'<g transform="translate({10 + column * _WIDTH},{y})">')
            body += _panel(panel, x_label)
            body.append("</g>")
        y += _HEIGHT
    return _page(title, columns * _WIDTH + 20, y, body, notes)


def bars_svg(title: str, panels: Sequence[Bars], notes: Sequence[str]) -> str:
    """Panels one below the other, with the names of the bars at the left."""
    body: list[str] = []
    y, left, width = 40, 310, 760
    for panel in panels:
        y += 20
        body.append(_text(14, y, panel.title, size=12, weight="bold"))
        y += 6
        for name, values in panel.bars.items():
            body += _bar(y, left, width - left - 70, name, estimate(values))
            y += 18
        y += 8
    return _page(title, width, y, body, notes)


def _bar(y: int, left: int, room: int, name: str, found: Estimate) -> list[str]:
    end = left + room * found.mean
    body = [
        _text(left - 6, y + 11, name, size=11, anchor="end"),
        f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="14" fill="{_COLOURS[0]}"/>',
    ]
    low, high = found.mean, found.mean
    if found.low == found.low:  # not NaN: there are several seeds
        low, high = max(found.low, 0.0), min(found.high, 1.0)
        body.append(
            f'<line x1="{left + room * low:.1f}" x2="{left + room * high:.1f}" y1="{y + 7}" '
            f'y2="{y + 7}" stroke="#222" stroke-width="2"/>'
        )
    text = f"{100 * found.mean:.1f} %"
    return [*body, _text(left + room * max(high, found.mean) + 6, y + 11, text, size=11)]


def _page(title: str, width: int, y: int, body: list[str], notes: Sequence[str]) -> str:
    """The heading, what was drawn down to `y`, and the notes below."""
    body = [_text(14, 26, title, size=15, weight="bold"), *body]
    for note in notes:
        for line in textwrap.wrap(note, int((width - 28) / _LETTER)):
            y += 15
            body.append(_text(14, y, line, size=11))
        y += 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{y + 14}" '
        f'viewBox="0 0 {width} {y + 14}">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


@dataclass(frozen=True)
class _Axes:
    """From values to pixels."""

    x_low: float
    x_high: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = min(max(value / self.y_high, 0.0), 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _panel(panel: Panel, x_label: str) -> list[str]:
    xs = sorted({x for line in panel.lines.values() for x in line})
    top = max(v for line in panel.lines.values() for values in line.values() for v in values)
    axes = _Axes(xs[0], xs[-1], _ceiling(top))
    body = [_text(_LEFT, 18, panel.title, size=12, weight="bold")]
    for step in range(5):
        value = axes.y_high * step / 4
        y = axes.y(value)
        body.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        body.append(_text(_LEFT - 5, y + 4, f"{100 * value:g} %", size=10, anchor="end"))
    for x in xs:
        body.append(_text(axes.x(x), _HEIGHT - _BOTTOM + 14, f"{x:g}", size=10, anchor="middle"))
    middle = (axes.x(xs[0]) + axes.x(xs[-1])) / 2
    body.append(_text(middle, _HEIGHT - _BOTTOM + 29, x_label, size=10, anchor="middle"))
    for number, (name, line) in enumerate(panel.lines.items()):
        body += _line(axes, line, _COLOURS[number % len(_COLOURS)])
        if len(panel.lines) > 1:  # names stand at the lower right, one below the other
            y = _HEIGHT - _BOTTOM - 8 - 13 * (len(panel.lines) - 1 - number)
            colour = _COLOURS[number % len(_COLOURS)]
            body.append(_text(_WIDTH - _RIGHT - 8, y, name, size=10, anchor="end", colour=colour))
    return body


def _line(axes: _Axes, line: Mapping[float, Sequence[float]], colour: str) -> list[str]:
    """The line of means, and at every point its interval and the seeds."""
    found = {x: estimate(line[x]) for x in sorted(line)}
    points = " ".join(f"{axes.x(x):.1f},{axes.y(e.mean):.1f}" for x, e in found.items())
    body = [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']
    for x, e in found.items():
        if e.low == e.low:  # not NaN: there are several seeds
            body.append(
                f'<line x1="{axes.x(x):.1f}" x2="{axes.x(x):.1f}" y1="{axes.y(e.low):.1f}" '
                f'y2="{axes.y(e.high):.1f}" stroke="{colour}" stroke-width="1.5"/>'
            )
        body += [
            f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(value):.1f}" r="2.2" fill="{colour}" '
            'fill-opacity="0.6"/>'
            for value in line[x]
        ]
    return body


def _ceiling(value: float) -> float:
    """The end of the axis: the smallest of some round shares that is not below `value`."""
    return next((end for end in (0.04, 0.1, 0.2, 0.4, 0.6, 0.8) if value <= end), 1.0)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = "#222",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" font-family="sans-serif" fill="{colour}">{escape(text)}</text>'
    )
