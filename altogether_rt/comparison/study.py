"""A study's folder: what is shown, and separately the key that says who wrote it.

    study.json     questions, annotators, where the images are
    tasks.jsonl    a row a task: image, alt-text, the two captions as they stand left and right
    key.json       which system wrote which caption, and the seed
    answers/       a file an annotator

Serving never opens the key, which may be kept elsewhere until the report. Ids of tasks are random:
nothing can be derived from them, not even with the seed.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from altogether_rt.artifacts.files import NewFolder
from altogether_rt.comparison.design import Plan
from altogether_rt.comparison.questions import Question, Questions
from altogether_rt.data.rows import encode_row
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.plain_data import from_dict

__all__ = [
    "Key",
    "Side",
    "Study",
    "StudyInfo",
    "SystemInfo",
    "Task",
    "Tie",
    "make_study",
    "write_study",
]

SCHEMA_VERSION: Final = 1

_MAX_FILE_BYTES: Final = 1 << 30

T = TypeVar("T")


@dataclass(frozen=True)
class StudyInfo:
    """What `study.json` says."""

    schema: int
    id: str
    images: str  # folder of the images
    questions: Questions
    annotators: tuple[str, ...] = ()  # who may answer; empty: anyone


@dataclass(frozen=True)
class Task:
    """Two captions to compare, without who wrote them."""

    id: str
    file_name: str
    sha256: str  # of the image
    alt: tuple[str, ...]
    left: str
    right: str
    annotators: tuple[str, ...] = ()  # who is asked; empty: everyone


@dataclass(frozen=True)
class Side:
    """Who wrote the two captions of a task: indices of systems."""

    left: int
    right: int
    is_repeat: bool = False  # the same pair was shown before, with sides swapped


@dataclass(frozen=True)
class Tie:
    """Two systems that wrote the same caption of an image: nobody is asked."""

    file_name: str
    systems: tuple[int, int]
    has_alt_text: bool


@dataclass(frozen=True)
class SystemInfo:
    """One of the systems compared."""

    name: str
    file: str
    sha256: str  # of the caption file
    left_out: int  # images without a caption: an error, or no row


@dataclass(frozen=True)
class Key:
    """What `key.json` says; annotators must not see it."""

    schema: int
    id: str  # of the study
    seed: int
    systems: tuple[SystemInfo, ...]
    tasks: Mapping[str, Any]  # id -> Side, as plain data
    identical: tuple[Tie, ...] = ()
    unreadable_images: int = 0

    def sides(self) -> dict[str, Side]:
        return {id_: from_dict(Side, side, f"tasks.{id_}") for id_, side in self.tasks.items()}


@dataclass(frozen=True)
class Study:
    """A study's folder, opened without its key."""

    folder: Path
    info: StudyInfo
    tasks: tuple[Task, ...]

    @classmethod
    def load(cls, folder: Path) -> Study:
        """Raises AltogetherError if the folder holds no study, or one of another version."""
        if not (folder / "study.json").is_file():
            raise AltogetherError(
                f"{folder} holds no study: make one with altogether-rt compare start."
            )
        info = _parse(StudyInfo, _read(folder / "study.json"), folder / "study.json")
        lines = _read(folder / "tasks.jsonl").splitlines()
        tasks = [_parse(Task, line, folder / "tasks.jsonl") for line in lines]
        if len({task.id for task in tasks}) != len(tasks):
            raise AltogetherError(f"{folder / 'tasks.jsonl'} has a task twice: restore the file.")
        return cls(folder, info, tuple(tasks))

    def load_key(self, path: Path | None = None) -> Key:
        """The key, from the folder or from where it is kept. Raises AltogetherError."""
        path = path or self.folder / "key.json"
        if not path.is_file():
            raise AltogetherError(
                f"there is no key {path}: put the study's key.json back, or give it with --key."
            )
        key = _parse(Key, _read(path), path)
        if key.id != self.info.id or key.tasks.keys() != {task.id for task in self.tasks}:
            raise AltogetherError(f"{path} is the key of another study: give this study's own.")
        return key

    @property
    def answers_folder(self) -> Path:
        return self.folder / "answers"

    def tasks_of(self, annotator: str) -> tuple[Task, ...]:
        """What this annotator is asked, in order. Raises AltogetherError for an unknown name."""
        if self.info.annotators and annotator not in self.info.annotators:
            raise AltogetherError(
                f"this study has no annotator {annotator!r}: "
                f"there are {', '.join(self.info.annotators)}."
            )
        return tuple(t for t in self.tasks if not t.annotators or annotator in t.annotators)

    def questions_of(self, task: Task) -> tuple[Question, ...]:
        """What is asked about a task."""
        return self.info.questions.asked(has_alt_text=bool(task.alt))


def make_study(
    plan: Plan,
    *,
    images: Path,
    hashes: Mapping[str, str],
    questions: Questions,
    annotators: tuple[str, ...],
    systems: tuple[SystemInfo, ...],
    seed: int,
    unreadable_images: int = 0,
) -> tuple[StudyInfo, tuple[Task, ...], Key]:
    """Gives a plan's tasks ids and separates what is shown from the key.

    `hashes` has each image's SHA-256.
    """
    info = StudyInfo(
        SCHEMA_VERSION, secrets.token_hex(8), str(images.absolute()), questions, annotators
    )
    tasks, sides = [], {}
    for planned in plan.tasks:
        candidate = planned.candidate
        task = Task(
            id=secrets.token_hex(8),
            file_name=candidate.file_name,
            sha256=hashes[candidate.file_name],
            alt=candidate.alts,
            left=planned.left_caption,
            right=planned.right_caption,
            annotators=planned.annotators,
        )
        tasks.append(task)
        sides[task.id] = dataclasses.asdict(Side(planned.left, planned.right, planned.is_repeat))
    ties = [
        Tie(tie.candidate.file_name, (tie.left, tie.right), bool(tie.candidate.alts))
        for tie in plan.identical
    ]
    key = Key(SCHEMA_VERSION, info.id, seed, systems, sides, tuple(ties), unreadable_images)
    return info, tuple(tasks), key


def write_study(out: Path, info: StudyInfo, tasks: Sequence[Task], key: Key) -> Study:
    """Writes the folder whole or not at all. Raises AltogetherError if `out` exists."""
    if out.exists():
        raise AltogetherError(f"{out} exists already: choose another --out.")
    with NewFolder(out) as new:
        (new.path / "answers").mkdir()
        (new.path / "study.json").write_bytes(_pretty(info))
        rows = b"".join(encode_row(dataclasses.asdict(task)) for task in tasks)
        (new.path / "tasks.jsonl").write_bytes(rows)
        (new.path / "key.json").write_bytes(_pretty(key))
        new.commit()
    return Study(out, info, tuple(tasks))


def _pretty(value: StudyInfo | Key) -> bytes:
    return (json.dumps(dataclasses.asdict(value), indent=1) + "\n").encode("ascii")


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise AltogetherError(f"{path} is too large to be what it should be.")
        return path.read_bytes()
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error


def _parse(cls: type[T], text: bytes, path: Path) -> T:
    """Raises AltogetherError for text that is not the dataclass as JSON, or of another schema."""
    try:
        data: Any = json.loads(text)
        if isinstance(data, dict) and data.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise AltogetherError(
                f"{path} has schema {data['schema']!r} and this version reads {SCHEMA_VERSION}: "
                "use the version of altogether-rt that made it."
            )
        return from_dict(cls, data)
    except (ValueError, RecursionError) as error:
        raise AltogetherError(f"{path} is not valid JSON: restore it from a copy.") from error
    except ConfigError as error:
        raise AltogetherError(f"{path} is not valid: {error}") from error
