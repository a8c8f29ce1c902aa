"""An evaluation as one HTML file: metrics, distributions, the best and worst captions.

Like a contact sheet (`data/sinks/sheet.py`), it contains its thumbnails and fetches nothing.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from altogether_rt.artifacts.files import new_file
from altogether_rt.data.problems import Problems
from altogether_rt.data.sinks.sheet import image_html, sheet_css, text_html
from altogether_rt.errors import ImageError
from altogether_rt.evaluation.evaluate import Evaluation, Results
from altogether_rt.evaluation.inputs import image_path
from altogether_rt.evaluation.metric import Estimate, Metric
from altogether_rt.evaluation.plots import histogram_svg, interval_svg

__all__ = ["NUM_SHOWN", "REPORT_HEAD", "Report", "write_report"]

#: Number of best captions shown, and of worst ones.
NUM_SHOWN: Final = 8
#: Maximum number of names in each list of what was not scored.
_MAX_NAMED: Final = 50
#: The metric that captions are ranked by: the first one that is available.
_ORDER: Final = ("cider_d", "clip_score", "rouge_l", "names_kept", "alt_words_kept", "words")


@dataclass(frozen=True)
class Report:
    """The contents of the page."""

    results: Results
    settings: Mapping[str, Any]  # tokenizer, versions and so on
    images: Path | None = None  # their folder, if there is one

    @property
    def evaluation(self) -> Evaluation:
        return self.results.evaluation

    @cached_property
    def alts(self) -> Mapping[str, tuple[str, ...]]:
        return self.evaluation.alts()

    @property
    def against(self) -> Evaluation | None:
        return self.results.against


#: How a page begins.
REPORT_HEAD: Final = re.compile(rb"<!doctype html>\n<html.{0,500}<title>Evaluation of ", re.DOTALL)


def write_report(report: Report, path: Path) -> None:
    """Write the page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as file:
        file.writelines(part.encode("utf-8", "replace") for part in _page(report))


def _page(report: Report) -> Iterator[str]:
    evaluation = report.evaluation
    name = html.escape(evaluation.captions.path.name)
    style = resources.files("altogether_rt.evaluation").joinpath("report.css").read_text("utf-8")
    beside = []
    if evaluation.references is not None:
        beside.append(f"references: {text_html(str(evaluation.references.path))}")
    if report.against is not None:
        beside.append(f"against: {text_html(str(report.against.captions.path))}")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>Evaluation of {name}</title>\n<style>\n{sheet_css()}{style}</style>\n"
        f"</head>\n<body>\n<header>\n<h1>{name}</h1>\n<p>{' · '.join(beside)}</p>\n</header>\n"
        "<main>\n"
    )
    yield _counts(report)
    yield _metrics(report)
    if report.results.differences:
        yield _differences(report)
    yield _distributions(report)
    yield from _examples(report)
    yield _not_scored(evaluation)
    yield "</main>\n</body>\n</html>\n"


def _counts(report: Report) -> str:
    lines = [_count_line(report.evaluation)]
    if report.against is not None:
        lines.append(f"against: {_count_line(report.against)}")
    return (
        "<section>\n<h2>What was evaluated</h2>\n"
        + "".join(f'<p class="counts">{line}</p>\n' for line in lines)
        + "</section>\n"
    )


def _count_line(evaluation: Evaluation) -> str:
    counts = evaluation.counts()
    numbers = {key: value for key, value in counts.items() if isinstance(value, int) and value}
    parts = [f"{value:,} {key.replace('_', ' ')}" for key, value in numbers.items()]
    return html.escape(" · ".join(parts))


def _metrics(report: Report) -> str:
    rows = []
    for key, metric in report.evaluation.metrics.items():
        estimate = report.results.estimates[key]
        rows.append(
            f"<tr><td>{metric.label}</td><td>{metric.shown(estimate.value)}</td>"
            f"<td>{metric.shown_interval(estimate.interval)}</td><td>{estimate.num_images:,}</td></tr>\n"
        )
    for missing in report.evaluation.unavailable.values():
        reason = html.escape(missing.reason)
        rows.append(
            f"<tr><td>{missing.label}</td><td>–</td>"
            f'<td class="why" colspan="2">{reason}</td></tr>\n'
        )
    definitions = "".join(
        f"<dt>{metric.label}</dt><dd>{html.escape(_definition(metric))}</dd>\n"
        for metric in report.evaluation.metrics.values()
    )
    settings = "".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(str(value))}</dd>\n"
        for key, value in report.settings.items()
    )
    return (
        '<section>\n<h2>Metrics</h2>\n<div class="scroll"><table>\n<thead><tr><th>metric</th>'
        "<th>value</th><th>interval</th><th>images</th></tr></thead>\n<tbody>\n"
        f"{''.join(rows)}</tbody>\n</table></div>\n"
        f"<details><summary>Definitions</summary><dl>{definitions}</dl></details>\n"
        f"<details><summary>Settings and versions</summary><dl>{settings}</dl></details>\n"
        "</section>\n"
    )


def _verdict(metric: Metric, estimate: Estimate) -> str:
    """better, worse or different if the interval excludes 0; "" if it does not."""
    low, high = estimate.interval
    if not (low > 0 or high < 0):
        return ""
    if metric.higher_is_better is None:
        return "different"
    return "better" if (low > 0) == metric.higher_is_better else "worse"


def _definition(metric: Metric) -> str:
    remark = metric.remark
    return (
        f"{metric.definition}; {remark}" if remark not in metric.definition else metric.definition
    )


def _differences(report: Report) -> str:
    rows = []
    for row in report.results.differences:
        metric, estimate = row.metric, row.difference
        low, high = estimate.interval
        verdict = _verdict(metric, estimate)
        shown = metric.shown(estimate.value, signed=True)
        ends = metric.shown_interval(estimate.interval, signed=True)
        plot = interval_svg(low, estimate.value, high, f"{metric.label}: {shown}, {ends}")
        rows.append(
            f"<tr><td>{metric.label}</td><td>{metric.shown(row.ours.value)}</td>"
            f"<td>{metric.shown(row.theirs.value)}</td>"
            f'<td class="{verdict}">{shown}</td><td>{ends}</td>'
            f"<td>{plot}</td><td>{estimate.num_images:,}</td></tr>\n"
        )
    return (
        "<section>\n<h2>Differences on the images that both have captioned</h2>\n"
        '<div class="scroll">'
        "<table>\n<thead><tr><th>metric</th><th>this</th><th>against</th><th>difference</th>"
        "<th>interval</th><th>relative to 0</th><th>images</th></tr></thead>\n<tbody>\n"
        f"{''.join(rows)}</tbody>\n</table></div>\n</section>\n"
    )


def _distributions(report: Report) -> str:
    figures = []
    for key, metric in report.evaluation.metrics.items():
        if metric.each is None or key == "duplicates":
            continue
        other = report.against.metrics.get(key) if report.against is not None else None
        plot = histogram_svg(metric.each, metric.label, None if other is None else other.each)
        if plot:
            figures.append(f"<figure><figcaption>{metric.label}</figcaption>{plot}</figure>\n")
    key = ""
    if report.against is not None:
        key = (
            '<p><span class="key ours"></span> this &nbsp; <span class="key theirs"></span> '
            "against &nbsp; lines: means</p>\n"
        )
    return (
        f'<section>\n<h2>Distributions over images</h2>\n{key}<div class="plots">\n'
        f"{''.join(figures)}</div>\n</section>\n"
    )


def _examples(report: Report) -> Iterator[str]:
    """The best and worst captions, or those with the largest differences to the other system."""
    metrics = report.evaluation.metrics
    metric = next((metrics[key] for key in _ORDER if key in metrics), None)
    if metric is None or metric.each is None:
        return
    values = dict(zip(metric.images, metric.each.tolist(), strict=True))
    high, low = "highest", "lowest"
    if report.against is not None and (other := report.against.metrics.get(metric.key)):
        assert other.each is not None
        theirs = dict(zip(other.images, other.each.tolist(), strict=True))
        values = {image: values[image] - theirs[image] for image in values if image in theirs}
        high, low = "highest differences", "lowest differences"
    ranked = sorted((i for i in values if not np.isnan(values[i])), key=lambda i: -values[i])
    num = min(NUM_SHOWN, len(ranked) // 2)
    signed = report.against is not None
    for title, images in ((high, ranked[:num]), (low, ranked[::-1][:num])):
        if images:
            yield f"<h2>{metric.label}: {title}</h2>\n"
        for image in images:
            yield _card(report, image, metric.shown(values[image], signed=signed))


def _card(report: Report, image: str, figure: str) -> str:
    captions = report.evaluation.captions
    caption = text_html(captions.texts.get(image, ""))
    parts = [
        f'<article>\n<figure>{_image(report, image)}</figure>\n<div>\n<div class="row">'
        f'<h2>{text_html(image)}</h2><span class="figure">{figure}</span></div>\n',
        _texts("Alt-text", report.alts.get(image, ())),
        f'<section class="caption"><h3>Caption</h3><p>{caption}</p></section>\n',
    ]
    references = report.evaluation.references
    if references is not None:
        parts.append(_texts("References", references.texts.get(image, ())))
    if report.against is not None:
        parts.append(_texts("Against", (report.against.captions.texts.get(image, ""),)))
    parts.append("</div>\n</article>\n")
    return "".join(parts)


def _texts(title: str, texts: Sequence[str]) -> str:
    shown = [text_html(text) for text in texts if text]
    if len(shown) > 1:
        body = f"<ul>{''.join(f'<li>{text}</li>' for text in shown)}</ul>"
    else:
        body = f"<p>{shown[0]}</p>" if shown else '<p class="none">none</p>'
    return f"<section><h3>{title}</h3>{body}</section>\n"


def _image(report: Report, image: str) -> str:
    missing = '<span class="missing" role="img" aria-label="no image">?</span>'
    if report.images is None:
        return missing
    try:
        return image_html(
            image_path(report.images, report.evaluation.captions.files.get(image, image))
        )
    except ImageError:
        return missing


def _not_scored(evaluation: Evaluation) -> str:
    captions, references = evaluation.captions, evaluation.references
    errors = [f"{image} ({kind})" for image, kind in captions.errors.items()]
    parts = [
        _names("Error rows", errors),
        _names("Records that are not rows", captions.problems),
        _names("Images without an embedding", evaluation.image_problems),
    ]
    if references is not None:
        parts += [
            _names("Captions without a reference", evaluation.without_reference()),
            _names("References without a caption", evaluation.without_caption()),
            _names("Records that are not references", references.problems),
        ]
    lists = "".join(parts)
    return f"<section>\n<h2>Not scored</h2>\n{lists}</section>\n" if lists else ""


def _names(title: str, names: Sequence[str] | Problems) -> str:
    """A list that can be opened, with at most `_MAX_NAMED` items; "" without names."""
    examples = names.examples if isinstance(names, Problems) else names[:_MAX_NAMED]
    total = names.count if isinstance(names, Problems) else len(names)
    if not total:
        return ""
    items = [f"<li>{text_html(name)}</li>" for name in examples]
    if total > len(items):
        items.append(f"<li>and {total - len(items):,} more</li>")
    return f"<details><summary>{title}: {total:,}</summary><ul>{''.join(items)}</ul></details>\n"
