"""Output of `altogether-rt eval`: tables, or one JSON object."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from altogether_rt import __version__
from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.cli.output import Output
from altogether_rt.evaluation.evaluate import Evaluation, Results
from altogether_rt.evaluation.metric import Bootstrap, Difference, Metric
from altogether_rt.evaluation.options import EvaluationOptions
from altogether_rt.metrics import TOKENIZER

__all__ = ["results_json", "run_settings", "show_results"]

#: Packages whose versions the results depend on.
_PACKAGES: Final = ("numpy", "open_clip_torch", "pycocoevalcap", "spacy", "torch")

#: What was left out of the results, by its key in `Evaluation.counts`.
_LEFT_OUT: Final = {
    "error_rows": "rows with errors",
    "unreadable_rows": "records that are not rows",
    "repeated_rows": "rows replaced by a later row of the same image",
    "captions_without_reference": "captions without a reference",
    "references_without_caption": "images with references but no caption",
    "unreadable_references": "records that are not references",
    "images_without_embedding": "images that have no embedding",
}


def run_settings(
    bootstrap: Bootstrap, options: EvaluationOptions, clip: str | None, clip_weights: str | None
) -> dict[str, Any]:
    """What the results depend on besides the files."""
    return {
        "tokenizer": TOKENIZER,
        "interval": f"{100 * bootstrap.level:g} %, percentile bootstrap over images",
        "resamples": bootstrap.num_resamples,
        "seed": bootstrap.seed,
        "missing_as_empty": options.missing_as_empty,
        "clip": clip,
        "clip_weights": clip_weights,
        "embeddings_of": None if options.clip is None else options.clip.encoder,
        "spacy_model": None if options.phrases is None else options.phrases.name,
        "versions": _versions(),
        "date": datetime.date.today().isoformat(),
    }


def _versions() -> dict[str, str]:
    versions = {"altogether-rt": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def results_json(results: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric with its interval, definition and number of images, and all counts."""
    evaluation, against = results.evaluation, results.against
    references = evaluation.references
    data: dict[str, Any] = {
        "captions": str(evaluation.captions.path),
        "references": None if references is None else str(references.path),
        "sha256": {str(path): hash_file(path) for path in _files(evaluation, against)},
        "counts": evaluation.counts(),
        "metrics": {
            key: {**results.estimates[key].to_dict(), **_about(metric)}
            for key, metric in evaluation.metrics.items()
        },
        "unavailable": {key: missing.reason for key, missing in evaluation.unavailable.items()},
    }
    if against is not None:
        data["against"] = {
            "captions": str(against.captions.path),
            "counts": against.counts(),
            "differences": {row.metric.key: _difference(row) for row in results.differences},
        }
    return {**data, "settings": dict(settings)}


def _files(evaluation: Evaluation, against: Evaluation | None) -> Iterator[Path]:
    """What was read."""
    yield evaluation.captions.path
    if evaluation.references is not None:
        yield evaluation.references.path
    if against is not None:
        yield against.captions.path


def _about(metric: Metric) -> dict[str, str]:
    about = {"label": metric.label, "unit": metric.unit, "definition": metric.definition}
    return {**about, "remark": metric.remark} if metric.remark else about


def _difference(row: Difference) -> dict[str, Any]:
    return {
        **row.difference.to_dict(),
        "ours": row.ours.to_dict(),
        "theirs": row.theirs.to_dict(),
    }


def show_results(output: Output, results: Results) -> None:
    """Prints the tables, then remarks, why metrics are missing, and how much was left out."""
    evaluation, against = results.evaluation, results.against
    title = f"{len(evaluation.captions.texts):,} captions of {evaluation.captions.path}"
    columns = ("metric", "value", "95 % interval", "images")
    output.show(output.table(title, columns, _rows(results)))
    if against is not None and results.differences:
        title = f"difference to {against.captions.path}, on the images that both have captioned"
        columns_of_two = ("metric", "this", "against", "difference", "95 % interval", "images")
        output.show(output.table(title, columns_of_two, map(_difference_row, results.differences)))
    for metric in evaluation.metrics.values():
        if metric.remark:
            output.show(f"{metric.label}: {metric.remark}")
    for missing in evaluation.unavailable.values():
        output.show(f"{missing.label}: – ({missing.reason})")
    for each in (evaluation, against):
        if each is not None and (left_out := _left_out(each)):
            output.show(f"{each.captions.path}: {left_out}")


def _rows(results: Results) -> Iterator[tuple[str, ...]]:
    for key, metric in results.evaluation.metrics.items():
        estimate = results.estimates[key]
        interval = metric.shown_interval(estimate.interval)
        yield metric.label, metric.shown(estimate.value), interval, f"{estimate.num_images:,}"
    for missing in results.evaluation.unavailable.values():
        yield missing.label, "–", "–", "–"


def _difference_row(row: Difference) -> tuple[str, ...]:
    metric, estimate = row.metric, row.difference
    return (
        metric.label,
        metric.shown(row.ours.value),
        metric.shown(row.theirs.value),
        metric.shown(estimate.value, signed=True),
        metric.shown_interval(estimate.interval, signed=True),
        f"{estimate.num_images:,}",
    )


def _left_out(evaluation: Evaluation) -> str:
    counts = evaluation.counts()
    named = [f"{counts[key]:,} {text}" for key, text in _LEFT_OUT.items() if counts.get(key)]
    return ", ".join(named)
