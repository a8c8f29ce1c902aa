"""The report as an image: for each question a bar of wins, ties and losses, and the win rate."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator
from typing import Final

from altogether_rt.comparison.report import Report
from altogether_rt.comparison.results import PairResult, QuestionResult

__all__ = ["PLOT_HEAD", "plot_report"]

#: How a plot begins.
PLOT_HEAD: Final = re.compile(rb'<svg [^>]*role="img">\n<title>')

# Blue and orange are told apart by every kind of colour vision; text on each has contrast.
_FIRST: Final = ("#2f6fb0", "#ffffff")
_TIE: Final = ("#d9d6d0", "#22201d")
_SECOND: Final = ("#e08a2e", "#22201d")

_LABEL_WIDTH: Final = 190
_BAR_WIDTH: Final = 480
_RIGHT_WIDTH: Final = 190
_WIDTH: Final = _LABEL_WIDTH + _BAR_WIDTH + _RIGHT_WIDTH
_ROW_HEIGHT: Final = 58
_BAR_HEIGHT: Final = 28
_HEAD_HEIGHT: Final = 52
_FOOT_HEIGHT: Final = 44

_STYLE: Final = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,sans-serif;fill:#22201d}"
    ".title{font-weight:650;font-size:15px}.soft{fill:#645e57;font-size:12px}"
    ".share{font-size:12px;text-anchor:middle}.tick{fill:#645e57;font-size:11px;"
    "text-anchor:middle}"
)


def plot_report(report: Report) -> str:
    """An SVG: a block for each pair of systems, in it a bar for each question.

    A bar is split into images where the first won, ties, and images where the second won. The
    dot is the first's win rate, the middle of the ties; the line through it, its 95 % interval.
    """
    heights = [_block_height(pair) for pair in report.results.pairs]
    total = sum(heights)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {total}" '
        f'width="{_WIDTH}" height="{total}" role="img">\n<title>{_text(_title(report))}</title>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect width="{_WIDTH}" height="{total}" fill="#ffffff"/>\n'
    ]
    top = 0
    for pair, height in zip(report.results.pairs, heights, strict=True):
        parts += _block(report, pair, top)
        top += height
    return "".join([*parts, "</svg>\n"])


def _title(report: Report) -> str:
    return "Side by side: " + ", ".join(report.names)


def _block_height(pair: PairResult) -> int:
    return _HEAD_HEIGHT + _ROW_HEIGHT * len(pair.questions) + _FOOT_HEIGHT


def _block(report: Report, pair: PairResult, top: int) -> Iterator[str]:
    first, second = (report.names[index] for index in pair.systems)
    yield f'<g transform="translate(0 {top})">\n'
    legend = ((_FIRST, f"{first} better"), (_TIE, "tie"), (_SECOND, f"{second} better"))
    for index, (colour, label) in enumerate(legend):
        x = _LABEL_WIDTH + index * _BAR_WIDTH // 3
        yield f'<rect x="{x}" y="16" width="12" height="12" rx="2" fill="{colour[0]}"/>\n'
        yield f'<text x="{x + 18}" y="26.5">{_text(_short(label, 22))}</text>\n'
    bottom = _HEAD_HEIGHT + _ROW_HEIGHT * len(pair.questions)
    for percent in (0, 25, 50, 75, 100):
        at = _LABEL_WIDTH + _BAR_WIDTH * percent // 100
        line = '#645e57" stroke-dasharray="3 3' if percent == 50 else "#e3e0da"
        yield (
            f'<line x1="{at}" x2="{at}" y1="{_HEAD_HEIGHT - 8}" y2="{bottom}" stroke="{line}"/>\n'
            f'<text class="tick" x="{at}" y="{bottom + 15}">{percent} %</text>\n'
        )
    for row, question in enumerate(pair.questions):
        yield from _bar(question, _HEAD_HEIGHT + row * _ROW_HEIGHT)
    yield (
        f'<text class="soft" x="{_LABEL_WIDTH}" y="{bottom + 34}">● win rate of '
        f"{_text(_short(first, 30))} (wins and half of the ties) with its 95 % interval</text>\n"
        "</g>\n"
    )


def _bar(result: QuestionResult, top: int) -> Iterator[str]:
    lines = textwrap.wrap(result.question.label, 26)[:2] or [""]
    middle = top + _BAR_HEIGHT / 2
    for index, line in enumerate(lines):
        y = middle + 4.5 + (index - (len(lines) - 1) / 2) * 16
        yield f'<text x="{_LABEL_WIDTH - 12}" y="{y:g}" text-anchor="end">{_text(line)}</text>\n'
    left = 0.0
    for share, (fill, ink) in zip(
        (result.win, result.tie, result.loss), (_FIRST, _TIE, _SECOND), strict=True
    ):
        x, width = _LABEL_WIDTH + left * _BAR_WIDTH, share * _BAR_WIDTH
        yield (
            f'<rect x="{x:.2f}" y="{top}" width="{width:.2f}" height="{_BAR_HEIGHT}" '
            f'fill="{fill}"/>\n'
        )
        if share >= 0.07:
            yield (
                f'<text class="share" x="{x + width / 2:.2f}" y="{middle + 4.5:g}" '
                f'style="fill:{ink}">{100 * share:.0f} %</text>\n'
            )
        left += share
    yield from _whisker(result, top + _BAR_HEIGHT + 9)
    x = _LABEL_WIDTH + _BAR_WIDTH + 14
    yield f'<text x="{x}" y="{middle - 2:g}">{_rate(result)}</text>\n'
    count = f"{result.num_images:,} images, p {_p(result.p_value)}"
    yield f'<text class="soft" x="{x}" y="{middle + 15:g}">{count}</text>\n'


def _whisker(result: QuestionResult, y: float) -> Iterator[str]:
    """Below the bar, so that it covers no share."""
    low, rate, high = (
        _LABEL_WIDTH + value * _BAR_WIDTH
        for value in (result.interval.low, result.win_rate, result.interval.high)
    )
    yield (
        f'<path d="M{low:.2f} {y}H{high:.2f}M{low:.2f} {y - 4}v8M{high:.2f} {y - 4}v8" '
        f'stroke="#22201d" stroke-width="1.5" fill="none"/>\n'
        f'<circle cx="{rate:.2f}" cy="{y}" r="4" fill="#22201d"/>\n'
    )


def _rate(result: QuestionResult) -> str:
    low, high = result.interval
    return f"{100 * result.win_rate:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _p(value: float) -> str:
    return "&lt; 0.001" if value < 0.001 else f"= {value:.3f}"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in text))
