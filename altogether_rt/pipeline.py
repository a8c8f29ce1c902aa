"""A folder of images and their alt-texts → a file of captions: the work of `caption`.

    scan ─▶ tasks ─▶ a captioner here, or several in processes of their own ─▶ rows, in input order

Rows are written by this process alone. Memory does not grow with the folder, save for its file
names and alt-texts.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from altogether_rt.data.alts import AltTable, read_alts
from altogether_rt.data.embedding_sink import EmbeddingSink
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.data.folder import FolderScan, scan_folder
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row, RunStamp, caption_row, error_row
from altogether_rt.data.sidecars import Sidecars
from altogether_rt.data.sinks import JsonlSink
from altogether_rt.errors import AltogetherError, ImageError
from altogether_rt.generation.engine import EngineStats
from altogether_rt.generation.params import Caption, CaptionParams
from altogether_rt.tasks import (
    Answer,
    CaptionPlan,
    ListedTasks,
    SupportsCaptions,
    Task,
    caption_tasks,
)
from altogether_rt.workers import WorkerPool

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
    sidecars = None
    if job.sidecar is not None:
        sidecars = Sidecars(inputs.scan.root, job.sidecar, job.overwrite)
        summary.sidecars_kept = sidecars.kept
    with ExitStack() as stack:
        sink = stack.enter_context(JsonlSink(job.out))
        embeddings = None
        if job.save_embeddings is not None:
            assert job.encoder is not None
            embeddings = stack.enter_context(
                EmbeddingSink(job.save_embeddings, job.encoder, overwrite=job.overwrite)
            )
        done = sink.recover(
            _row_check(inputs, stamp), overwrite=job.overwrite, retry_errors=job.retry_errors
        )
        if sidecars is not None and done:
            _write_sidecars(sidecars, sink.rows(), set(inputs.names))
        todo = [name for name in inputs.names if name not in done]
        summary.skipped = len(inputs.names) - len(todo)
        if embeddings is not None:
            rows = sink.rows() if done else ()
            summary.embeddings_missing = sum(
                "error" not in row and row["file_name"] not in embeddings for row in rows
            )
        on_start(len(todo))

        def finish_row(row: Row) -> None:
            if "error" in row:
                summary.failed[row["error"]["class"]] += 1
            else:
                summary.captioned += 1
                if sidecars is not None:  # before the row, which says that all is done
                    sidecars.write(row["file_name"], row["caption"])
            sink.write(row)
            on_row(row)

        def answer(index: int, answer: Answer) -> None:
            name = todo[index]
            alts = inputs.alts.get(name)
            if embeddings is not None and isinstance(answer, Caption):
                assert answer.embedded is not None
                embeddings.write(name, answer.embedded)  # before the row
            if isinstance(answer, ImageError):
                finish_row(error_row(name, alts, answer))
            else:
                finish_row(caption_row(name, alts, answer, stamp))

        plan = CaptionPlan(
            inputs.scan.root,
            params,
            job.limits,
            job.fast_jpeg,
            embeddings=job.embeddings,
            encoder=job.encoder,
            keep_embeddings=embeddings is not None,
        )
        tasks = (Task(i, name, inputs.alts.get(name).texts) for i, name in enumerate(todo))
        if isinstance(captioner, WorkerPool):
            summary.stats = captioner.caption(tasks, plan, answer)
        else:
            caption_tasks(ListedTasks(tasks), captioner, plan, answer)
            summary.stats = captioner.stats
        if embeddings is not None:
            embeddings.finish()
        sink.finish()
    summary.seconds = time.monotonic() - start
    return summary


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


def _write_sidecars(sidecars: Sidecars, rows: Iterable[Row], names: set[str]) -> None:
    """For captions of an earlier run, which may have been killed or not asked for them."""
    for row in rows:
        if "error" not in row and row["file_name"] in names:
            sidecars.write(row["file_name"], row["caption"])
