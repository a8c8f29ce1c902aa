"""The scores of each image as rows, for statistics of one's own.

`pandas.read_json("scores.jsonl", lines=True)` reads them. BLEU is a measure of whole sets: its
mean over images is not the BLEU of all of them, and names, words and phrases are ratios of sums.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from altogether_rt.artifacts.files import write_whole
from altogether_rt.data.rows import encode_row
from altogether_rt.evaluation.evaluate import Evaluation, Results

__all__ = ["SCORES_HEAD", "write_scores"]

#: How such a file begins.
SCORES_HEAD: Final = re.compile(rb'\{"captions": "(?:[^"\\]|\\.)*", "file_name": ')


def write_scores(results: Results, path: Path) -> int:
    """Write a row for each image and file of captions; return how many. Raises OSError."""
    evaluations = [results.evaluation]
    if results.against is not None:
        evaluations.append(results.against)
    rows = [row for evaluation in evaluations for row in _rows(evaluation)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, b"".join(map(encode_row, rows)))
    return len(rows)


def _rows(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """In order of the captions, then images scored without one. Undefined scores are None."""
    captions = evaluation.captions
    scores: dict[str, dict[str, float]] = {image: {} for image in captions.texts}
    for key, metric in evaluation.metrics.items():
        if metric.each is not None:
            for image, value in zip(metric.images, metric.each, strict=True):
                scores.setdefault(image, {})[key] = float(value)
    keys = [key for key, metric in evaluation.metrics.items() if metric.each is not None]
    for image, found in scores.items():
        values = {key: found.get(key, math.nan) for key in keys}
        yield {
            "captions": str(captions.path),
            "file_name": captions.files.get(image, image),
            "caption": captions.texts.get(image),
            **{key: None if math.isnan(value) else value for key, value in values.items()},
        }
