"""METEOR 1.5 with the Java program that pycocoevalcap contains.

Reimplementations of its matching give other scores, so the program does the matching. Only the last
step is done here: the score of a set of captions is a function of the sums of the program's counts
(Denkowski, Lavie: Meteor Universal, WMT 2014), which the bootstrap over images needs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from altogether_rt.evaluation.metric import Metric, Unavailable

__all__ = ["meteor_from_counts", "meteor_metric", "why_no_meteor"]

_DEFINITION: Final = (
    "METEOR 1.5 of the whole set (Denkowski and Lavie 2014), English, with the program, options "
    "and tokenizer of pycocoevalcap"
)
# Parameters of METEOR 1.5 for English.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS: Final = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
#: Replaces a caption without words, which the program refuses. It matches no word.
_NO_WORDS: Final = "xqzxqzxqz"


def why_no_meteor() -> str | None:
    """The reason why METEOR cannot be computed, None if it can."""
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "needs pycocoevalcap: pip install 'altogether-rt[meteor]'"
    if shutil.which("java") is None:
        return "needs Java: install a JRE (Debian: default-jre-headless)"
    return None


def meteor_metric(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> Metric | Unavailable:
    """METEOR of the images that have a caption and references."""
    reason = why_no_meteor()
    if reason is None:
        images = tuple(image for image in captions if image in references)
        try:
            counts = _counts([captions[i] for i in images], [references[i] for i in images])
        except (OSError, RuntimeError, ValueError) as error:
            reason = f"the Java program failed: {error}"
    if reason is not None:
        return Unavailable("meteor", "METEOR", reason)
    return Metric(
        "meteor",
        "METEOR",
        _DEFINITION,
        "score",
        images,
        counts,
        meteor_from_counts,
        meteor_from_counts(counts),
        higher_is_better=True,
    )


def meteor_from_counts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores of summed counts, (num_sets, 23) -> (num_sets,).

    Columns: words of caption and reference, function words of caption and reference; for each of
    the four kinds of match, the matched content words of caption and reference and the matched
    function words of caption and reference; chunks; matched words of caption and reference.
    """
    words, reference_words, function, reference_function = counts[:, :4].T
    matches = counts[:, 4:20].reshape(-1, 4, 4)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = _weighted(matches[:, :, 0], matches[:, :, 2]) / (
            _DELTA * (words - function) + (1 - _DELTA) * function
        )
        recall = _weighted(matches[:, :, 1], matches[:, :, 3]) / (
            _DELTA * (reference_words - reference_function) + (1 - _DELTA) * reference_function
        )
        mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
        fragmentation = counts[:, 20] / ((counts[:, 21] + counts[:, 22]) / 2)
        scores: NDArray[np.float64] = mean * (1 - _GAMMA * fragmentation**_BETA)
    return np.nan_to_num(scores)  # no match


def _weighted(content: NDArray[np.float64], function: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = (_DELTA * content + (1 - _DELTA) * function) @ _WEIGHTS
    return total


def _counts(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """The program's counts for each caption and its best reference: (num_captions, 23)."""
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    with _no_stderr():
        words = tokenizer.tokenize(_as_tables([[text] for text in candidates]))
        reference_words = tokenizer.tokenize(_as_tables(references))
    program: Any = Meteor()
    rows = []
    for index in range(len(candidates)):
        line = program._stat(
            _with_words(words[index][0]), [_with_words(t) for t in reference_words[index]]
        )
        if line.startswith("Error"):
            raise RuntimeError(line[:200])
        rows.append([float(value) for value in line.split()])
    counts = np.array(rows, np.float64)
    # A caption equal to its reference is one chunk and has no fragmentation penalty.
    same = (counts[:, 20] == 1) & (counts[:, 21] == counts[:, 0]) & (counts[:, 22] == counts[:, 1])
    counts[same, 20] = 0
    return counts


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discards stderr, also of subprocesses: the tokenizer's program prints its speed there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _as_tables(texts: Sequence[Sequence[str]]) -> dict[int, list[dict[str, str]]]:
    return {index: [{"caption": text} for text in some] for index, some in enumerate(texts)}


def _with_words(words: str) -> str:
    return words if any(c.isalnum() for c in words) else _NO_WORDS
