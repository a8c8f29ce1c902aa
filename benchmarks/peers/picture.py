"""A bar chart of images per second, as SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from peers.tables import footnotes, processor

__all__ = ["to_svg"]

_WIDTH, _LABEL_WIDTH, _BAR, _GAP, _MARGIN = 760, 250, 22, 8, 20
_COLOURS = {"ours": "#1b7f5c", "peer": "#8a97a8"}
_TEXT = 'font-family="sans-serif" fill="#222"'


def to_svg(result: Mapping[str, Any]) -> str:
    """Two panels at the batch size of the decoder column: whole captions, and the decoder alone."""
    batch = result["decoder_batch"]
    panels = [
        (f"Whole captions, images a second, batch {batch}", "images_per_s", ("whole",)),
        (f"Decoder alone, images a second, batch {batch}", "decoder_images_per_s", _SCOPES),
    ]
    machine = result["machine"]
    y, body = _MARGIN + 12, []
    title = f"{result['size']} size, {processor(machine)}, {machine['threads']} threads"
    if result.get("pairs"):
        title += f", captions of {result['pairs']}"
    body.append(_text(_MARGIN, y, f"{title}, {machine['date']}", size=15, weight="bold"))
    for heading, name, scopes in panels:
        y += 34
        body.append(_text(_MARGIN, y, heading, size=13, weight="bold"))
        y += 12
        bars = _bars(result, name, scopes)
        for bar in bars:
            body += _bar(y, bar, largest=max(bar["max"] for bar in bars))
            y += _BAR + _GAP
    y += 4
    for note in (*footnotes(result), _versions(result)):
        for line in textwrap.wrap(note, _LETTERS):
            y += 14
            body.append(_text(_MARGIN, y, line, size=10))
        y += 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + _MARGIN}" '
        f'viewBox="0 0 {_WIDTH} {y + _MARGIN}">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


#: Of 10 pixels' height, in a line.
_LETTERS = 110

_SCOPES = ("whole", "decoder")


def _bars(result: Mapping[str, Any], name: str, scopes: Sequence[str]) -> list[dict[str, Any]]:
    bars = []
    for one in result["contestants"]:
        cells = [c for c in one["cells"].values() if c["batch"] == result["decoder_batch"]]
        if cells and one["scope"] in scopes:
            rate = min(cells, key=lambda cell: cell["images"])[name]
            kind = "ours" if one["name"].startswith("ours") else "peer"
            bars.append({"label": one["label"], "kind": kind, **rate})
    return bars


def _bar(y: int, bar: Mapping[str, Any], largest: float) -> list[str]:
    left, room = _LABEL_WIDTH, _WIDTH - _LABEL_WIDTH - 110
    width, low, high = (room * bar[key] / largest for key in ("median", "min", "max"))
    middle = y + _BAR / 2
    return [
        _text(left - 8, y + 15, bar["label"], size=12, anchor="end"),
        f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{_BAR}" '
        f'fill="{_COLOURS[bar["kind"]]}"/>',
        f'<line x1="{left + low:.1f}" x2="{left + high:.1f}" y1="{middle}" y2="{middle}" '
        'stroke="#222" stroke-width="2"/>',
        _text(left + max(width, high) + 6, y + 15, f"{bar['median']:.3g}", size=12),
    ]


def _versions(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def _text(
    x: float, y: float, text: str, *, size: int, anchor: str = "start", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}" {_TEXT}>{escape(text)}</text>'
    )
