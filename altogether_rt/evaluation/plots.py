"""Inline SVG plots: histograms, and intervals relative to 0."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["histogram_svg", "interval_svg"]

_WIDTH: Final = 360
_HEIGHT: Final = 150
_BOTTOM: Final = 22  # room for the numbers under the axis
_MAX_BINS: Final = 24

Values = Sequence[float] | NDArray[np.float64]


def histogram_svg(values: Values, label: str, other: Values | None = None) -> str:
    """A histogram: bars for `values`, an outline for `other`, lines at the means.

    NaN is left out. Heights are relative to the number of values, so that sets of different sizes
    can be compared. "" without values.
    """
    sets = [np.asarray(values, np.float64)] + ([] if other is None else [np.asarray(other)])
    sets = [numbers[~np.isnan(numbers)] for numbers in sets]
    everything = np.concatenate(sets)
    if not len(sets[0]):
        return ""
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    num_bins = int(min(_MAX_BINS, max(4, 2 * np.sqrt(len(sets[0])))))
    edges = np.linspace(low, high, num_bins + 1)
    heights = [np.histogram(numbers, edges)[0] / max(1, len(numbers)) for numbers in sets]
    scale = (_HEIGHT - _BOTTOM - 6) / max(float(h.max()) for h in heights)
    parts = _bars(heights[0] * scale)
    if len(sets) > 1:
        parts += _outline(heights[1] * scale)
    for numbers, kind in zip(sets, ("mean", "mean other"), strict=False):
        if len(numbers):
            x = _WIDTH * (float(numbers.mean()) - low) / (high - low)
            parts.append(
                f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT - _BOTTOM}"/>'
            )
    base = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/>')
    parts.append(f'<text x="0" y="{_HEIGHT - 6}">{low:.3g}</text>')
    parts.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">{high:.3g}</text>')
    means = ", ".join(f"{float(n.mean()):.3g}" for n in sets if len(n))
    title = f"{label}: {len(sets[0])} images from {low:.3g} to {high:.3g}, mean {means}"
    return _svg(_WIDTH, _HEIGHT, title, parts)


def interval_svg(low: float, value: float, high: float, label: str) -> str:
    """A value and its interval relative to 0, on a scale of its own; "" if all are 0 or NaN."""
    width, height = 150, 18
    reach = 1.1 * max(abs(low), abs(high), abs(value))
    if not np.isfinite(reach) or reach == 0:
        return ""
    left, middle, right = (width / 2 * (1 + end / reach) for end in (low, value, high))
    parts = [
        f'<line class="axis" x1="{width / 2}" x2="{width / 2}" y1="0" y2="{height}"/>',
        f'<line class="reach" x1="{left:.1f}" x2="{right:.1f}" y1="9" y2="9"/>',
        f'<circle cx="{middle:.1f}" cy="9" r="3.5"/>',
    ]
    return _svg(width, height, label, parts)


def _bars(heights: NDArray[np.float64]) -> list[str]:
    width = _WIDTH / len(heights)
    base = _HEIGHT - _BOTTOM
    return [
        f'<rect x="{i * width + 0.5:.1f}" y="{base - h:.1f}" width="{width - 1:.1f}" '
        f'height="{h:.1f}"/>'
        for i, h in enumerate(heights)
        if h > 0
    ]


def _outline(heights: NDArray[np.float64]) -> list[str]:
    width = _WIDTH / len(heights)
    base = _HEIGHT - _BOTTOM
    steps = " ".join(f"V{base - h:.1f} H{(i + 1) * width:.1f}" for i, h in enumerate(heights))
    return [f'<path class="other" d="M0 {base} {steps} V{base}"/>']


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    name = html.escape(title, quote=True)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{name}"><title>{name}</title>{"".join(parts)}</svg>'
    )
