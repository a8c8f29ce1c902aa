"""Starts annotation: makes a work folder with its first round from images and their texts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altogether_rt.annotation.answers import now
from altogether_rt.annotation.assign import assign, check_shares, draw_order
from altogether_rt.annotation.guideline import default_guideline, read_guideline
from altogether_rt.annotation.work import FIRST_ROUND, SCHEMA, Task, write_round, write_rows
from altogether_rt.artifacts.files import NewFolder, write_whole
from altogether_rt.data.file_hash import file_hash, is_file_hash
from altogether_rt.data.images import open_image
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import read_rows
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.scenes.dataset import read_references
from altogether_rt.web.images import ImageFile, read_image_file

__all__ = ["Start", "StartPlan", "Started", "plan_start", "start_work"]


@dataclass(frozen=True)
class Start:
    """What to annotate, by whom, and the folder for the work."""

    images: Path
    out: Path
    alts: Path | None = None
    captions: Path | None = None  # of a captioner; they replace the alt-texts as round 1
    annotators: tuple[str, ...] = ()
    overlap: float = 0.0  # share of the images that two annotators get
    gold: Path | None = None  # a folder of scenes
    num_gold: int = 10
    seed: int = 0
    guideline: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class StartPlan:
    """The inputs, before any image is read."""

    source: FolderSource
    captions: Mapping[str, Mapping[str, Any]]  # rows by file name
    num_bad_captions: int
    gold_names: list[str]  # in the folder of scenes
    references: Mapping[str, Mapping[str, Any]]
    gold_is_own: bool  # the gold images are the images to annotate themselves

    @property
    def num_images(self) -> int:
        return len(self.source.names) + len(self.gold_names)


@dataclass
class Started:
    """The result of starting."""

    tasks: list[Task] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)  # error rows
    other_images: Problems = field(default_factory=Problems)  # captioned under the same name

    @property
    def num_from_captions(self) -> int:
        return sum(task.started_from == "caption" for task in self.tasks)

    @property
    def num_extra(self) -> int:
        return sum(task.extra for task in self.tasks)

    @property
    def num_gold(self) -> int:
        return sum(task.gold for task in self.tasks)


def plan_start(start: Start) -> StartPlan:
    """Scan the folders and read the texts. Raises AltogetherError if an input is unusable."""
    check_shares(start.annotators, start.overlap)
    if start.out.exists() and (not start.out.is_dir() or any(start.out.iterdir())):
        raise AltogetherError(f"{start.out} is there already: choose another --out.")
    if start.guideline is not None:
        read_guideline(start.guideline)
    source = FolderSource(start.images, start.alts, limit=start.limit)
    captions, num_bad = _read_captions(start.captions) if start.captions else ({}, 0)
    if captions and not any(name in captions for name in source.names):
        raise AltogetherError(
            f"no image in {source.root} has a caption in {start.captions}: file_name must be "
            f"relative to {source.root}, as {source.names[0]!r:.80} is, and the file begins with "
            f"{next(iter(captions))!r:.80}."
        )
    references: Mapping[str, Mapping[str, Any]] = {}
    if start.gold is not None:
        references = read_references(start.gold / "references.jsonl")
    is_own = start.gold is not None and start.gold.resolve() == source.root.resolve()
    gold_names = [] if is_own else _draw_gold(references, start)
    return StartPlan(source, captions, num_bad, gold_names, references, is_own)


def start_work(start: Start, plan: StartPlan, advance: Callable[[], None]) -> Started:
    """Read the images and write the work folder, whole or not at all.

    Images that cannot be read are left out and listed in `left_out.jsonl`. `advance` is called
    after each. Raises AltogetherError if not one can be read.
    """
    started = Started()
    own = list(_read_own(start, plan, started, advance))
    if not own:
        reason = started.left_out[0]["error"]["message"]
        raise AltogetherError(f"not one image of {start.images} can be read: {reason}")
    extras = list(_read_gold(start, plan, started, advance))
    started.tasks = assign(list(_spread(own, extras)), start.annotators, start.overlap, start.seed)
    with NewFolder(start.out) as new:
        _write(start, plan, started, new.path)
        new.commit()
    return started


def _read_captions(path: Path) -> tuple[dict[str, Mapping[str, Any]], int]:
    if not path.is_file():
        raise AltogetherError(f"there is no file {path}.")
    with path.open("rb") as file:
        rows = [row for _, row, _ in read_rows(file)]
    captions = {row["file_name"]: row for row in rows if row is not None and "caption" in row}
    if not captions:
        raise AltogetherError(f"{path} has no captions: rows need file_name and caption.")
    return captions, rows.count(None)


def _draw_gold(references: Mapping[str, Any], start: Start) -> list[str]:
    drawn = sorted(references, key=lambda name: draw_order(name, start.seed))
    return sorted(drawn[: start.num_gold])


def _read_own(
    start: Start, plan: StartPlan, started: Started, advance: Callable[[], None]
) -> Iterator[Task]:
    for sample in plan.source.samples():
        name, texts = sample.key, sample.alts.texts
        row = plan.captions.get(name)
        if row is not None and not _was_captioned(plan.source.root / name, row):
            started.other_images.add(name)
            row = None
        caption = None if row is None else str(row["caption"])
        task = _read_task(plan.source.root, name, texts, caption, started)
        if task is not None:
            bundle = row.get("bundle") if row is not None else None
            yield dataclasses.replace(
                task,
                captioner=str(bundle) if bundle else None,
                gold=plan.gold_is_own and name in plan.references,
            )
        advance()


def _was_captioned(path: Path, row: Mapping[str, Any]) -> bool:
    """False if the row knows that it is of another file; rows of other programs do not know."""
    known = row.get("image_hash")
    return not is_file_hash(known) or known == file_hash(path)


def _read_gold(
    start: Start, plan: StartPlan, started: Started, advance: Callable[[], None]
) -> Iterator[Task]:
    if start.gold is None:
        return
    for name in plan.gold_names:
        alts = tuple(map(str, plan.references[name].get("alts", ())))
        task = _read_task(start.gold, name, alts, None, started)
        if task is not None:
            yield dataclasses.replace(task, gold=True, extra=True)
        advance()


def _read_task(
    root: Path, name: str, alts: tuple[str, ...], caption: str | None, started: Started
) -> Task | None:
    try:
        with open_image(root / name) as image:
            width, height = image.size
        data = read_image_file(ImageFile(name, root / name))
    except ImageError as error:
        row = {"file_name": name, "error": {"class": error.kind, "message": str(error)}}
        started.left_out.append(row)
        return None
    # Several alt-texts are joined into one text to edit, as they are for the captioner.
    text = " ".join(alts) if caption is None else caption
    source = "alt-text" if caption is None else "caption"
    digest = hashlib.sha256(data).hexdigest()
    return Task(name, digest, width, height, alts, (text,), source)


def _spread(rows: list[Task], extras: list[Task]) -> Iterator[Task]:
    """`rows` in their order, with `extras` spread evenly among them."""
    done = 0
    for number, extra in enumerate(extras, 1):
        until = number * len(rows) // (len(extras) + 1)
        yield from rows[done:until]
        yield extra
        done = until
    yield from rows[done:]


def _write(start: Start, plan: StartPlan, started: Started, folder: Path) -> None:
    def from_work(path: Path) -> str:
        return os.path.relpath(path.resolve(), start.out.resolve())

    has_extras = any(task.extra for task in started.tasks)
    about = {
        "schema": SCHEMA,
        "images": from_work(plan.source.root),
        "gold": from_work(start.gold) if start.gold is not None and has_extras else None,
        "started": now(),
        "seed": start.seed,
    }
    write_whole(folder / "work.json", json.dumps(about, indent=1) + "\n")
    words = start.guideline.read_text("utf-8") if start.guideline else default_guideline()
    write_whole(folder / "guideline.toml", words)
    (folder / "answers").mkdir()
    if started.left_out:
        write_rows(folder / "left_out.jsonl", started.left_out)
    gold = [task for task in started.tasks if task.gold]
    if gold:
        facts = ({**plan.references[t.file_name], "image_hash": t.image_hash} for t in gold)
        write_rows(folder / "gold.jsonl", facts)
    opened = {
        "round": FIRST_ROUND,
        "opened": now(),
        "annotators": list(start.annotators),
        "overlap": start.overlap,
    }
    write_round(folder, FIRST_ROUND, opened, started.tasks)
