"""Scenes as a folder that `caption` and `train` can read, and scores of their captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from altogether_rt.artifacts.files import NewFile
from altogether_rt.errors import AltogetherError
from altogether_rt.scenes.draw import render
from altogether_rt.scenes.names import Split
from altogether_rt.scenes.score import Scores
from altogether_rt.scenes.text import Sample, make_sample

__all__ = ["read_references", "score_files", "write_scenes"]


def reference_row(file_name: str, sample: Sample) -> dict[str, Any]:
    """A row of references.jsonl."""
    return {
        "file_name": file_name,
        "caption": sample.caption,
        "rounds": list(sample.rounds),
        "alts": list(sample.alts),
        "facts": sample.facts(),
    }


def write_scenes(folder: Path, num: int, seed: int, split: Split) -> Iterator[int]:
    """Write `num` images, alts.jsonl and references.jsonl; yields after each image.

    The two files appear once all images are written. Raises AltogetherError if `folder` is not
    empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AltogetherError(
            f"{folder} is not an empty folder: choose another folder, or empty it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    width = max(4, len(str(num - 1)))
    with NewFile(folder / "references.jsonl") as out, NewFile(folder / "alts.jsonl") as alts:
        for index in range(num):
            file_name = f"{index:0{width}d}.png"
            sample = make_sample(seed, index, split)
            render(sample.scene).save(folder / file_name)
            alt: Any = sample.alts[0] if len(sample.alts) == 1 else list(sample.alts)
            _write(alts.file, {"file_name": file_name, "alt": alt})
            _write(out.file, reference_row(file_name, sample))
            yield index
        out.commit()
        alts.commit()


def _write(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))


def score_files(captions: Path, references: Path) -> Scores:
    """Score a file of rows with `file_name` and `caption` against a references file.

    A reference without a caption (missing, or an error row) is scored as an empty caption. Raises
    AltogetherError if a file is missing or no scene of `references` is in `captions`.
    """
    written = {row.get("file_name"): row.get("caption") or "" for row in _read(captions)}
    scores = Scores()
    known = read_references(references)
    for name, row in known.items():
        scores.add(str(written.get(name, "")), row)
    if not known.keys() & written.keys():
        raise AltogetherError(f"{captions} has no caption of any image in {references}.")
    scores.num_missing = sum(not written.get(name) for name in known)
    scores.num_unknown = len(written.keys() - known.keys())
    return scores


def read_references(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a scenes folder's references.jsonl, by file name. Raises AltogetherError."""
    rows = {}
    for row in _read(path):
        if not {"facts", "rounds", "file_name"} <= row.keys():
            raise AltogetherError(f"{path} is not the references.jsonl of a scenes folder.")
        rows[str(row["file_name"])] = row
    return rows


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise AltogetherError(f"there is no file {path}.")
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise AltogetherError(f"{path}, line {number} is not JSON.") from error
            if not isinstance(row, dict):
                raise AltogetherError(f"{path}, line {number} is not a JSON object.")
            yield row
