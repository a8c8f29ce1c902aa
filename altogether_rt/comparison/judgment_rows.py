"""All answers of a study with the systems' names, for statistics of one's own.

`pandas.read_json("judgments.jsonl", lines=True)` reads them. Identical captions, which nobody was
asked about, have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from altogether_rt.artifacts.files import write_whole
from altogether_rt.comparison.judgments import Judgment, outcome
from altogether_rt.data.rows import encode_row

__all__ = ["JUDGMENTS_HEAD", "write_judgments"]

#: How such a file begins.
JUDGMENTS_HEAD: Final = re.compile(rb'\{"annotator": "[a-z0-9_-]+", "file_name": ')


def write_judgments(names: Sequence[str], judgments: Sequence[Judgment], path: Path) -> int:
    """Write a row for each answer to a question; return how many. Raises OSError.

    names: of the systems.
    """
    rows = [row for judgment in judgments for row in _rows(names, judgment)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, b"".join(map(encode_row, rows)))
    return len(rows)


def _rows(names: Sequence[str], judgment: Judgment) -> Iterator[dict[str, Any]]:
    """`score` is 1 if `first` won, 0 if `second` did, 0.5 for a tie; None if it was skipped."""
    first, second = judgment.pair
    for question in judgment.choices or (None,):
        yield {
            "annotator": judgment.annotator,
            "file_name": judgment.task.file_name,
            "first": names[first],
            "second": names[second],
            "question": question,
            "score": None if question is None else outcome(judgment, question),
            "first_side": "left" if judgment.side.left == first else "right",
            "is_repeat": judgment.side.is_repeat,
            "seconds": judgment.seconds,
        }
