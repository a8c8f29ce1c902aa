"""Mixes captions and alt-texts and writes the files that trainers read, one for each epoch."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alts import clean_text, iter_alts
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import (
    iter_captions,
    read_caption_object,
    shard_paths,
    shard_tables,
)
from altogether_rt.mixing.draw import MixDraw, mix_text
from altogether_rt.mixing.formats import Format, MixFile, epoch_path, image_folder
from altogether_rt.mixing.table import Sample, SampleTable

__all__ = ["MAX_EPOCHS", "MixPlan", "MixSummary", "mix"]

#: How many of the first images are looked for where the written file says that they are.
_NUM_LOOKED_FOR: Final = 100

#: Maximum epochs of one call: each has a file, and all of them are open at the same time.
MAX_EPOCHS: Final = 512

Advance = Callable[[], object]


@dataclass(frozen=True)
class MixPlan:
    """What to write."""

    draw: MixDraw
    layout: Format = "rows"
    num_epochs: int = 1
    only_captions: bool = False  # samples whose text is not a caption are left out
    images: str = ""  # open-clip: the folder that is put before each file name

    def __post_init__(self) -> None:
        if not 1 <= self.num_epochs <= MAX_EPOCHS:
            raise AltogetherError(
                f"the number of epochs is {self.num_epochs}: it must be from 1 to {MAX_EPOCHS}."
            )


@dataclass
class MixSummary:
    """Counts of what was read, and of what was written in all epochs together."""

    num_samples: int = 0
    num_without_caption: int = 0  # samples, error rows included
    num_failed: int = 0  # error rows
    num_without_alt: int = 0  # samples
    num_repeated: int = 0  # records that were skipped: their sample had one before
    problems: Problems = field(default_factory=Problems)  # records that could not be read
    num_captions: int = 0  # texts
    num_alts: int = 0  # texts
    num_missing_captions: int = 0  # alt-texts taken because the caption drawn is missing
    num_left_out: int = 0  # samples of an epoch without a text, or with a name that does not fit

    num_looked_for: int = 0  # the first images, where a trainer will look for them
    num_absent: int = 0  # of these, images that are not there

    @property
    def share(self) -> float | None:
        """The share of captions among the texts that were written."""
        total = self.num_captions + self.num_alts
        return self.num_captions / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "samples": self.num_samples,
            "without_caption": self.num_without_caption,
            "errors": self.num_failed,
            "without_alt": self.num_without_alt,
            "repeated": self.num_repeated,
            "unreadable": self.problems.count,
            "captions": self.num_captions,
            "alts": self.num_alts,
            "missing_captions": self.num_missing_captions,
            "left_out": self.num_left_out,
            "share": self.share,
        }


def mix(
    captions: Path,
    out: Path,
    plan: MixPlan,
    *,
    alts: Path | None = None,
    overwrite: bool = False,
    advance: Advance = lambda: None,
) -> MixSummary:
    """Write `out`, or one file for each epoch; all of them appear after all are complete.

    alts: a file of alt-texts, which replace those in the records of the captions. If the layout is
    MetaCLIP's and `captions` a folder of its shards, such a folder is written. `advance` is called
    after every sample. Raises AltogetherError.
    """
    paths = [epoch_path(out, epoch, plan.num_epochs) for epoch in range(plan.num_epochs)]
    _check_paths(paths, [captions, *([alts] if alts else [])], overwrite)
    summary = MixSummary()
    if plan.layout == "metaclip" and captions.is_dir() and not shard_tables(captions):
        _mix_shards(captions, paths, plan, summary, advance)
        return summary
    try:
        with SampleTable() as table:
            _fill(table, captions, alts, summary)
            if not len(table):
                reason = summary.problems or "no rows"
                raise AltogetherError(f"{captions} has no captions: {reason}.")
            _write(table, paths, plan, summary, advance)
    except sqlite3.Error as error:
        raise AltogetherError(
            f"the texts cannot be kept on disk ({error}): set SQLITE_TMPDIR to a folder with room."
        ) from error
    return summary


def _check_paths(paths: Sequence[Path], inputs: Sequence[Path], overwrite: bool) -> None:
    for path in paths:
        if any(path.exists() and path.samefile(other) for other in inputs if other.exists()):
            raise AltogetherError(f"{path} is an input: give another --out.")
        if path.exists() and not overwrite:
            raise AltogetherError(f"{path} exists already: give another --out, or --overwrite.")
        if path.is_dir() and overwrite:
            raise AltogetherError(f"{path} is a folder: remove it, or give another --out.")


def _fill(table: SampleTable, captions: Path, alts: Path | None, summary: MixSummary) -> None:
    """Read all captions and alt-texts."""
    for record in iter_captions(captions, summary.problems):
        known = () if alts is not None else record.alts
        added = table.add(record.key, known, record.caption)
        summary.num_repeated += not added
        summary.num_failed += record.failed and added
    if alts is not None:
        num_captions = len(table)
        for name, texts in iter_alts(alts, summary.problems):
            table.add_alts(name, texts)
        if num_captions and not table.num_with_alts(num_captions):
            first = next(iter(table)).key
            raise AltogetherError(
                f"no image of {captions} has an alt-text in {alts}: file_name must be the same in "
                f"both files, but {captions} begins with {first!r:.80}."
            )


def _write(
    samples: Iterable[Sample],
    paths: Sequence[Path],
    plan: MixPlan,
    summary: MixSummary,
    advance: Advance,
) -> None:
    files: list[MixFile] = []
    with ExitStack() as stack:
        for epoch, path in enumerate(paths):
            files.append(MixFile(path, plan.layout, epoch, plan.images))
            stack.callback(files[-1].discard)
        folder = image_folder(plan.layout, paths[0], plan.images)
        for sample in samples:
            summary.num_samples += 1
            if folder is not None and summary.num_looked_for < _NUM_LOOKED_FOR:
                summary.num_looked_for += 1
                summary.num_absent += not _is_there(folder / sample.key)
            summary.num_without_caption += sample.caption is None
            summary.num_without_alt += not sample.alts
            for epoch, file in enumerate(files):
                _write_text(file, sample, plan, epoch, summary)
            advance()
        for file in files:
            file.close()
        for file in files:
            file.finish()


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _write_text(
    file: MixFile, sample: Sample, plan: MixPlan, epoch: int, summary: MixSummary
) -> None:
    alts: tuple[str, ...] = sample.alts
    if plan.layout == "metaclip":
        alts = ("",)  # they are not written: the loader has its own
    mixed = mix_text(plan.draw, sample.key, alts, sample.caption, epoch)
    wanted = mixed is not None and not (plan.only_captions and mixed.source == "alt")
    if mixed is None or not wanted or not file.write(sample.key, mixed):
        summary.num_left_out += 1
        return
    summary.num_captions += mixed.source == "caption"
    summary.num_alts += mixed.source == "alt"
    summary.num_missing_captions += mixed.missing_caption


def _mix_shards(
    captions: Path,
    paths: Sequence[Path],
    plan: MixPlan,
    summary: MixSummary,
    advance: Advance,
) -> None:
    """A folder of MetaCLIP's shards, one at a time. Each epoch's folder appears at the end."""
    for path in paths:
        if path.exists():  # `_check_paths` has refused folders
            raise AltogetherError(
                f"{path} is a file, and a folder of shards is to be written: give another --out."
            )
    temporaries = [path.with_name(path.name + ".tmp") for path in paths]
    for temporary in temporaries:
        if temporary.exists():
            raise AltogetherError(f"{temporary} is left from a run that was stopped: remove it.")
    with ExitStack() as stack:
        for temporary in temporaries:
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        for shard in shard_paths(captions):
            samples = (
                Sample(key, (), clean_text(caption or "") or None)
                for key, caption in read_caption_object(shard, summary.problems).items()
            )
            name = shard.relative_to(captions)
            _write(samples, [path / name for path in temporaries], plan, summary, advance)
        for temporary, path in zip(temporaries, paths, strict=True):
            temporary.rename(path)
