"""A folder of images and their alt-texts → a file of captions: the work of `caption`.

    scan ─▶ tasks ─▶ a captioner here, or several in processes of their own ─▶ rows, in input order

Rows are written by this process alone. Memory does not grow with the folder, save for its file
names and alt-texts.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt.captions import CaptionParams
from altogether_rt.data.alts import Alts, AltTable, read_alts
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, RunStamp, caption_row, error_row
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.data.sinks.sidecars import Sidecars
from altogether_rt.data.sources.folder import FolderScan, scan_folder
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.jobs.processes import WorkerPool
from altogether_rt.jobs.tasks import (
    Answer,
    CaptionPlan,
    ListedTasks,
    SupportsCaptions,
    Task,
    caption_tasks,
)

__all__ = ["CaptionJob", "CaptionSummary", "Inputs", "caption_folder", "find_alts", "read_inputs"]


@dataclass(frozen=True)
class CaptionJob:
    """What to caption and where to."""

    folder: Path
    out: Path
    alts: Path | None = None
    recursive: bool = True
    limit: int | None = None  # the first so many images
    sidecar: str | None = None  # ending of the text files beside the images
    overwrite: bool = False
    retry_errors: bool = False
    limits: ImageLimits = field(default_factory=ImageLimits)
    fast_jpeg: bool = False
    embeddings: Path | None = None  # read instead of the images
    save_embeddings: Path | None = None
    encoder: EncoderStamp | None = None  # of the bundle; needed with either of the two


@dataclass(frozen=True)
class Inputs:
    """What a job found."""

    scan: FolderScan
    names: list[str]  # the images to caption, in order
    alts: AltTable
    alts_without_image: Problems


@dataclass
class CaptionSummary:
    """What a run did."""

    captioned: int = 0
    skipped: int = 0  # had a row already
    failed: Counter[str] = field(default_factory=Counter)  # by class of error
    seconds: float = 0.0
    sidecars_kept: Problems = field(default_factory=Problems)
    embeddings_missing: int = 0  # rows of earlier runs, which did not save them
    stats: EngineStats = field(default_factory=EngineStats)  # of all workers together

    @property
    def num_failed(self) -> int:
        return sum(self.failed.values())


def find_alts(path: Path, folder: Path) -> Path:
    """An alt-text file as the user named it: from here or, failing that, within the folder."""
    for candidate in (path, folder / path):
        if candidate.is_file():
            return candidate
    raise AltogetherError(f"there is no alt-text file {path}, neither here nor in {folder}.")


def read_inputs(job: CaptionJob) -> Inputs:
    """Scans the folder and reads the alt-texts; quick, and before any model is loaded.

    Raises AltogetherError if there is nothing to caption, or a file that cannot be read.
    """
    scan = scan_folder(job.folder, recursive=job.recursive)
    if not scan.names:
        deeper = "" if job.recursive else " itself (its subfolders were left out)"
        raise AltogetherError(f"there are no images in {job.folder}{deeper}.")
    alts, without_image = AltTable(), Problems()
    if job.alts is not None:
        path = find_alts(job.alts, scan.root)
        if job.out.exists() and os.path.samefile(path, job.out):
            raise AltogetherError(f"--out is the alt-text file {path}: choose another.")
        alts = read_alts(path, scan.root)
        without_image = alts.without_image(scan.names)
    return Inputs(scan, scan.names[: job.limit], alts, without_image)


def caption_folder(
    job: CaptionJob,
    inputs: Inputs,
    captioner: SupportsCaptions | WorkerPool,
    params: CaptionParams,
    on_start: Callable[[int], None] = lambda todo: None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> CaptionSummary:
    """Captions what has no row yet. `on_start` is given the number of images to do.

    Raises AltogetherError if the output belongs to another run. Whatever stops it, the rows
    finished so far are kept, and calling it again goes on behind them.
    """
    start = time.monotonic()
    stamp = RunStamp(captioner.bundle_id, params, job.fast_jpeg)
    summary = CaptionSummary()
    with ExitStack() as stack:
        sink = stack.enter_context(JsonlSink(job.out))
        output = _Output(
            sink,
            _open_embeddings(job, stack),
            None if job.sidecar is None else Sidecars(inputs.scan.root, job.sidecar, job.overwrite),
            stamp,
            summary,
        )
        done = sink.recover(
            _row_check(inputs, stamp), overwrite=job.overwrite, retry_errors=job.retry_errors
        )
        if done:
            output.review(set(inputs.names))
        todo = [name for name in inputs.names if name not in done]
        summary.skipped = len(inputs.names) - len(todo)
        on_start(len(todo))

        def emit(index: int, answer: Answer) -> None:
            on_row(output.write(todo[index], inputs.alts.get(todo[index]), answer))

        plan = CaptionPlan(
            inputs.scan.root,
            params,
            job.limits,
            job.fast_jpeg,
            embeddings=job.embeddings,
            encoder=job.encoder,
            keep_embeddings=output.embeddings is not None,
        )
        tasks = (Task(i, name, inputs.alts.get(name).texts) for i, name in enumerate(todo))
        if todo and isinstance(captioner, WorkerPool):
            summary.stats = captioner.caption(tasks, plan, emit)
        elif todo and not isinstance(captioner, WorkerPool):
            caption_tasks(ListedTasks(tasks), captioner, plan, emit)
            summary.stats = captioner.stats
        output.finish()
    summary.seconds = time.monotonic() - start
    return summary


def _open_embeddings(job: CaptionJob, stack: ExitStack) -> EmbeddingSink | None:
    if job.save_embeddings is None:
        return None
    assert job.encoder is not None
    sink = EmbeddingSink(job.save_embeddings, job.encoder, overwrite=job.overwrite)
    return stack.enter_context(sink)


@dataclass(frozen=True)
class _Output:
    """Everything that a run writes; the row of an image comes last, and says that all is there."""

    rows: JsonlSink
    embeddings: EmbeddingSink | None
    sidecars: Sidecars | None
    stamp: RunStamp
    summary: CaptionSummary

    def review(self, names: set[str]) -> None:
        """What earlier runs, which may not have been asked for it, left out beside their rows."""
        if self.sidecars is None and self.embeddings is None:
            return
        for row in self.rows.rows():
            if "error" in row or row["file_name"] not in names:
                continue
            if self.sidecars is not None:
                self._write_sidecar(row)
            if self.embeddings is not None:
                self.summary.embeddings_missing += row["file_name"] not in self.embeddings

    def write(self, name: str, alts: Alts, answer: Answer) -> Row:
        if isinstance(answer, ImageError):
            self.summary.failed[answer.kind] += 1
            row = error_row(name, alts, answer)
        else:
            self.summary.captioned += 1
            row = caption_row(name, alts, answer, self.stamp)
            if self.embeddings is not None and answer.embedded is not None:
                self.embeddings.write(name, answer.embedded)
            if self.sidecars is not None:
                self._write_sidecar(row)
        self.rows.write(row)
        return row

    def finish(self) -> None:
        if self.embeddings is not None:
            self.embeddings.finish()
        self.rows.finish()

    def _write_sidecar(self, row: Row) -> None:
        assert self.sidecars is not None
        self.sidecars.write(row["file_name"], row["caption"])
        self.summary.sidecars_kept = self.sidecars.kept


def _row_check(inputs: Inputs, stamp: RunStamp) -> Callable[[Row], str | None]:
    """Says why a row that is already there cannot stand beside those of this run."""
    expected = stamp.fields()
    names = set(inputs.scan.names)

    def check(row: Row) -> str | None:
        name = row["file_name"]
        if name in names and row.get("alt") != inputs.alts.get(name).json:
            return f"written from other alt-texts ({name} for one)"
        if "error" in row:
            return None
        if row.get("bundle") != expected["bundle"]:
            return f"of bundle {row.get('bundle')}, and this one is {expected['bundle']}"
        if row.get("params") != expected["params"]:
            return "written with other parameters"
        if row.get("fast_jpeg") != expected.get("fast_jpeg"):
            return f"written {'with' if row.get('fast_jpeg') else 'without'} --fast-jpeg"
        return None

    return check
