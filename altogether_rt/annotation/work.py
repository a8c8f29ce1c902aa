"""The work folder: images, rounds and answers.

    work.json              the image folder, the time of the start, the seed
    guideline.toml         the guideline; it may be edited
    gold.jsonl             facts of gold images, if there are any
    rounds/2/round.json    how round 2 was opened
    rounds/2/tasks.jsonl   one row per image
    answers/anna.jsonl     all answers of anna in all rounds; append-only

Round 1 is the text that came with the images; people answer from round 2 on. Everything but the
answers and the guideline is written once and never changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from altogether_rt.annotation.guideline import Guideline, read_guideline
from altogether_rt.artifacts.files import NewFolder, new_file, write_whole
from altogether_rt.data.rows import encode_row
from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import answer_files, read_answers
from altogether_rt.web.images import ImageFile

__all__ = [
    "FIRST_ROUND",
    "Round",
    "Task",
    "TaskKey",
    "Work",
    "hash_text",
    "write_round",
    "write_rows",
]

SCHEMA: Final = 1
#: The first round that people answer; round 1 is what they start from.
FIRST_ROUND: Final = 2

#: (file name, SHA-256 of its bytes): an image that changed is another one.
TaskKey = tuple[str, str]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One image in one round."""

    file_name: str
    image_hash: str  # SHA-256 of the file
    width: int  # pixels, upright
    height: int
    alts: tuple[str, ...]
    rounds: tuple[str, ...]  # the texts of all rounds before this one
    started_from: str  # what round 1 is: "alt-text" or "caption"
    captioner: str | None = None  # the bundle that wrote the caption
    annotators: tuple[str, ...] = ()  # who is to answer; empty: anyone
    author: str | None = None  # who wrote the text that this round starts from
    gold: bool = False  # its facts are known
    extra: bool = False  # gold that was mixed in; never exported

    @property
    def key(self) -> TaskKey:
        return self.file_name, self.image_hash

    @property
    def text(self) -> str:
        """What this round starts from."""
        return self.rounds[-1]

    def to_row(self) -> dict[str, Any]:
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_row(cls, row: Row) -> Task:
        """Raises TypeError, KeyError or ValueError if the row is not a task's."""
        lists = {name: tuple(map(str, row[name])) for name in ("alts", "rounds", "annotators")}
        task = cls(**{**row, **lists})
        if not task.rounds or not all(isinstance(part, str) for part in task.key):
            raise ValueError("an incomplete task")
        return task


@dataclass(frozen=True)
class Round:
    """One round, with its tasks in the order in which they are shown."""

    number: int
    tasks: tuple[Task, ...]
    overlap: float
    annotators: tuple[str, ...]

    def tasks_of(self, names: Iterable[str]) -> list[Task]:
        """Tasks assigned to at least one of these annotators."""
        wanted = set(names)
        return [t for t in self.tasks if not t.annotators or not wanted.isdisjoint(t.annotators)]


class Work:
    """An existing work folder."""

    def __init__(self, folder: Path) -> None:
        """Raises AltogetherError if `folder` is not a work folder of this version."""
        self.folder = folder
        data = _read_json(folder / "work.json", folder)
        if data.get("schema") != SCHEMA:
            raise AltogetherError(
                f"{folder} was made by another version (its schema is {data.get('schema')}, "
                f"not {SCHEMA}): use that version of altogether-rt."
            )
        self._images = folder / str(data.get("images"))
        self._gold = folder / str(data.get("gold")) if data.get("gold") else None

    @property
    def guideline(self) -> Guideline:
        return read_guideline(self.folder / "guideline.toml")

    @property
    def round_numbers(self) -> list[int]:
        """Numbers of the rounds that people answer, in ascending order."""
        names = (path.name for path in (self.folder / "rounds").glob("*"))
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    @property
    def current_number(self) -> int:
        numbers = self.round_numbers
        if not numbers:
            raise AltogetherError(f"{self.folder} has no rounds: start the work again.")
        return numbers[-1]

    def round(self, number: int | None = None) -> Round:
        """A round; None means the open one. Raises AltogetherError if it does not exist."""
        number = self.current_number if number is None else number
        folder = self.folder / "rounds" / str(number)
        if not folder.is_dir():
            raise AltogetherError(f"{self.folder} has no round {number}.")
        about = _read_json(folder / "round.json", self.folder)
        path = folder / "tasks.jsonl"
        tasks = []
        for line_number, row in enumerate(read_answers(path), 1):
            try:
                tasks.append(Task.from_row(row))
            except (TypeError, KeyError, ValueError) as error:
                raise AltogetherError(f"line {line_number} of {path} is not a task.") from error
        names = tuple(map(str, about.get("annotators", ())))
        return Round(number, tuple(tasks), float(about.get("overlap", 0.0)), names)

    def image_file(self, task: Task) -> ImageFile:
        """The image file of a task, with its expected hash."""
        root = self._gold if task.extra and self._gold is not None else self._images
        return ImageFile(task.file_name, root / task.file_name, task.image_hash)

    def answer_path(self, annotator: str) -> Path:
        return self.folder / "answers" / f"{annotator}.jsonl"

    @contextmanager
    def locked(self, *, alone: bool) -> Iterator[None]:
        """Hold the folder's lock: shared to write answers, exclusive (`alone`) to open a round.

        Raises AltogetherError if it cannot be had now.
        """
        descriptor = os.open(self.folder / "work.json", os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AltogetherError(
                    f"a page of {self.folder} is being served: end annotate serve first."
                    if alone
                    else f"a round of {self.folder} is being opened: try again in a moment."
                ) from error
            except OSError:
                pass  # a file system without locks: go on without one
            yield
        finally:
            os.close(descriptor)

    def answers(self) -> dict[str, list[Row]]:
        """All rows of every annotator, in the order in which they were written."""
        files = answer_files(self.folder / "answers")
        return {name: read_answers(path) for name, path in files.items()}

    def gold_facts(self) -> dict[TaskKey, Row]:
        """The reference rows (of `scenes`) of gold images."""
        rows = read_answers(self.folder / "gold.jsonl")
        return {(str(row["file_name"]), str(row["image_hash"])): row for row in rows}


def hash_text(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write a file of rows, whole or not at all; it is on disk when this returns."""
    with new_file(path) as file:
        file.writelines(map(encode_row, rows))


def write_round(work: Path, number: int, about: Row, tasks: Iterable[Task]) -> None:
    """Open a round: its folder is written whole or not at all."""
    folder = work / "rounds" / str(number)
    if folder.exists():
        raise AltogetherError(f"{folder} is there already.")
    with NewFolder(folder) as new:
        write_rows(new.path / "tasks.jsonl", (task.to_row() for task in tasks))
        write_whole(new.path / "round.json", json.dumps(about, indent=1) + "\n")
        new.commit()


def _read_json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        data = None
    except (OSError, ValueError) as error:
        raise AltogetherError(f"{path} cannot be read: {error}.") from error
    if not isinstance(data, dict):
        raise AltogetherError(
            f"{folder} is not a work folder: make one with altogether-rt annotate start."
        )
    return data
