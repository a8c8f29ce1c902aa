"""A source and a file of captions: the work of `caption`.

    source ─▶ samples without a row ─▶ executor ─▶ rows, in the source's order

Rows are written by this process alone. Memory does not grow with the source, save for keys and
alt-texts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from altogether_rt.captions import Answer, CaptionParams
from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alt_files.embedded import Embedded
from altogether_rt.data.alts import Alts
from altogether_rt.data.check_counts import CheckCounts
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.data.hygiene.boilerplate import Boilerplate, find_boilerplate
from altogether_rt.data.hygiene.clean import AltHygiene, HygieneOptions
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import RunStamp
from altogether_rt.data.sinks.alt_writer import AltWriter
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sinks.sidecars import Sidecars
from altogether_rt.data.sinks.stream import open_rows
from altogether_rt.data.sources.base import Source
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.changes import Changes, find_changes
from altogether_rt.jobs.executor import Executor
from altogether_rt.jobs.output import CaptionSummary, JobOutput, RowSink, row_check
from altogether_rt.jobs.plan import CaptionPlan, EmbeddingFile
from altogether_rt.jobs.samples import caption_samples
from altogether_rt.jobs.watch import watched
from altogether_rt.monitoring.monitor import RunMonitor
from altogether_rt.wording.checks import CaptionChecker

__all__ = ["CaptionJob", "CaptionSummary", "EmbeddingFiles", "caption_folder", "open_folder"]


@dataclass(frozen=True)
class EmbeddingFiles:
    """Embeddings that a job reads instead of images, or saves; one of the two."""

    encoder: EncoderStamp  # of the captioner
    read: Path | None = None
    save: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CaptionJob:
    """What to caption and where to write it."""

    folder: Path
    out: Path
    alts: Path | None = None
    columns: Columns = field(default_factory=Columns)  # of the alt-text file
    beside: str | None = None  # alt-texts from files beside the images: ".txt", "metadata.jsonl"
    embedded: Embedded | None = None  # alt-texts from the XMP of the images
    write_alt: str | None = None  # captions into the XMP of copies in this folder, or IN_PLACE
    strict: bool = False  # every line of the alt-text file must be usable
    recursive: bool = True
    limit: int | None = None  # the first so many images
    share: KeyShare | None = None  # a share of the images, to try before the big run
    sidecar: str | None = None  # suffix of the text files beside the images
    overwrite: bool = False
    retry_errors: bool = False
    update: bool = False  # caption again where the image or its alt-texts have changed
    limits: ImageLimits = field(default_factory=ImageLimits)
    fast_jpeg: bool = False
    embeddings: EmbeddingFiles | None = None
    hygiene: HygieneOptions = field(default_factory=HygieneOptions)
    checker: CaptionChecker | None = None  # of captions; None: they are not checked

    def __post_init__(self) -> None:
        for name in ("folder", "out", "alts"):  # whatever the annotations say
            if isinstance(given := getattr(self, name), str):
                object.__setattr__(self, name, Path(given))


def open_folder(
    job: CaptionJob, on_records: Callable[[int], None] = lambda count: None
) -> FolderSource:
    """The source of a job, before any model is loaded.

    on_records: told how many records of the alt-text file are read, now and then. Raises
    AltogetherError if there is nothing to caption, or a file cannot be read.
    """
    return FolderSource(
        job.folder,
        job.alts,
        recursive=job.recursive,
        limit=job.limit,
        share=job.share,
        out=job.out,
        columns=job.columns,
        strict=job.strict,
        beside=job.beside,
        embedded=job.embedded,
        sidecar=job.sidecar,
        on_records=on_records,
    )


def caption_folder(
    job: CaptionJob,
    source: Source,
    executor: Executor,
    params: CaptionParams,
    monitor: RunMonitor | None = None,
) -> CaptionSummary:
    """Caption the samples of `source` that have no row in `job.out` yet.

    monitor: told the number of samples, and each answer whose row is written. Raises
    AltogetherError if the output belongs to another run, or disappears. Whatever stops it, finished
    rows are kept, and calling it again continues after them.
    """
    start = time.monotonic()
    monitor = monitor or RunMonitor("images")
    stamp = RunStamp(executor.bundle_id, params, job.fast_jpeg, job.hygiene.names)
    hygiene = AltHygiene(job.hygiene, _boilerplate(job, source))
    summary = CaptionSummary(
        hygiene=hygiene.counts, checks=None if job.checker is None else CheckCounts()
    )
    with ExitStack() as stack:
        sink: RowSink = open_rows(job.out, source.order_key)
        stack.enter_context(sink)
        embeddings = _open_embeddings(job, source, stack)
        output = _output(job, source, sink, embeddings, stamp, summary)
        changes = _changes(job, source, sink, monitor)
        done = sink.recover(
            row_check(stamp),
            overwrite=job.overwrite,
            retry_errors=job.retry_errors,
            is_stale=partial(output.is_stale, changes) if job.update else lambda row: False,
        )
        summary.note_earlier(sink, done, changes, kept=not job.update)
        summary.rows_elsewhere = _rows_elsewhere(source, done)
        if done:
            output.review(source)
        monitor.start(source.num_samples(without=done))

        def emit(key: str, alts: Alts, answer: Answer) -> None:
            output.write(key, alts, answer)
            monitor.answered(key, answer)

        def is_new(key: str) -> bool:
            summary.skipped += key in done
            return key not in done

        with watched(sink.check):
            summary.stats = caption_samples(
                hygiene.samples(monitor.drawn(s for s in source.samples() if is_new(s.key))),
                executor,
                _plan(job, params),
                emit,
                live=source.live,
            )
        output.finish()
    summary.seconds = time.monotonic() - start
    return summary


def _changes(job: CaptionJob, source: Source, sink: RowSink, monitor: RunMonitor) -> Changes:
    """What has changed since the rows of earlier runs; nothing if they are replaced anyway."""
    if job.overwrite:
        return Changes()
    reads_images = job.embeddings is None or job.embeddings.read is None
    limits = job.limits if reads_images else None

    def tell(num_rows: int) -> None:
        monitor.advance(0, note=f"{num_rows:,} earlier rows compared with their images")

    found = find_changes(sink.former_rows(), source, limits, tell)
    monitor.advance(0, note="")
    return found


def _rows_elsewhere(source: Source, done: Set[str]) -> Problems:
    """Rows of earlier runs whose images are not in the folder: they are gone, or in another one."""
    found = Problems()
    if isinstance(source, FolderSource):
        # The images of a folder that a run did not look at are there all the same.
        elsewhere = [
            name
            for name in done
            if source.alts_of(name) is None and not os.path.lexists(source.root / name)
        ]
        for name in sorted(elsewhere):
            found.add(name)
    return found


def _boilerplate(job: CaptionJob, source: Source) -> Boilerplate | None:
    """What begins or ends very many alt-texts of the source, if it is to be dropped."""
    if not job.hygiene.drop_boilerplate:
        return None
    if source.live:
        raise AltogetherError("boilerplate is found in all alt-texts, and these are not there yet.")
    return find_boilerplate(text for sample in source.samples() for text in sample.alts.texts)


def _plan(job: CaptionJob, params: CaptionParams) -> CaptionPlan:
    files = job.embeddings
    return CaptionPlan(
        params,
        job.limits,
        job.fast_jpeg,
        embeddings=EmbeddingFile(files.read, files.encoder) if files and files.read else None,
        keep_embeddings=files is not None and files.save is not None,
    )


def _output(
    job: CaptionJob,
    source: Source,
    sink: RowSink,
    embeddings: EmbeddingSink | None,
    stamp: RunStamp,
    summary: CaptionSummary,
) -> JobOutput:
    return JobOutput(
        sink,
        embeddings,
        _sidecars(job, source),
        stamp,
        summary,
        _alt_writer(job, source),
        job.checker,
    )


def _open_embeddings(job: CaptionJob, source: Source, stack: ExitStack) -> EmbeddingSink | None:
    files = job.embeddings
    if files is None or files.save is None:
        return None
    sink = EmbeddingSink(
        files.save, files.encoder, order_key=source.order_key, overwrite=job.overwrite
    )
    return stack.enter_context(sink)


def _sidecars(job: CaptionJob, source: Source) -> Sidecars | None:
    if job.sidecar is None:
        return None
    if source.root is None:
        raise AltogetherError("--sidecar needs a folder of images to write beside.")
    files = [job.out, Path(f"{job.out}.part")]
    if job.alts is not None:
        files += [job.alts, source.root / job.alts]
    sidecars = Sidecars(source.root, job.sidecar, frozenset(map(os.path.realpath, files)))
    if not source.live:
        sidecars.assign(sample.key for sample in source.samples())
    return sidecars


def _alt_writer(job: CaptionJob, source: Source) -> AltWriter | None:
    if job.write_alt is None:
        return None
    if source.root is None:
        raise AltogetherError("--write-alt needs a folder of images.")
    return AltWriter(source.root, job.write_alt, job.limits)
