"""A source and a file of captions: the work of `caption`.

    source ─▶ samples without a row ─▶ executor ─▶ rows, in the source's order

Rows are written by this process alone. Memory does not grow with the source, save for keys and
alt-texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from altogether_rt.captions import Answer, CaptionParams
from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.alts import Alts
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.data.hygiene.boilerplate import Boilerplate, find_boilerplate
from altogether_rt.data.hygiene.clean import AltHygiene, HygieneOptions
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.rows import RunStamp
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.data.sinks.sidecars import Sidecars
from altogether_rt.data.sources.base import Source
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import Executor
from altogether_rt.jobs.output import CaptionSummary, JobOutput, row_check
from altogether_rt.jobs.plan import CaptionPlan, EmbeddingFile
from altogether_rt.jobs.samples import caption_samples
from altogether_rt.monitoring.monitor import RunMonitor

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
    strict: bool = False  # every line of the alt-text file must be usable
    recursive: bool = True
    limit: int | None = None  # the first so many images
    share: KeyShare | None = None  # a share of the images, to try before the big run
    sidecar: str | None = None  # suffix of the text files beside the images
    overwrite: bool = False
    retry_errors: bool = False
    update: bool = False  # caption again where the alt-texts have changed
    limits: ImageLimits = field(default_factory=ImageLimits)
    fast_jpeg: bool = False
    embeddings: EmbeddingFiles | None = None
    hygiene: HygieneOptions = field(default_factory=HygieneOptions)


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
    AltogetherError if the output belongs to another run. Whatever stops it, finished rows are kept,
    and calling it again continues after them.
    """
    start = time.monotonic()
    monitor = monitor or RunMonitor("images")
    stamp = RunStamp(executor.bundle_id, params, job.fast_jpeg, job.hygiene.names)
    hygiene = AltHygiene(job.hygiene, _boilerplate(job, source))
    summary = CaptionSummary(hygiene=hygiene.counts)
    with ExitStack() as stack:
        sink = stack.enter_context(JsonlSink(job.out, source.order_key))
        output = JobOutput(
            sink, _open_embeddings(job, source, stack), _sidecars(job, source), stamp, summary
        )
        done = sink.recover(
            row_check(source, stamp),
            overwrite=job.overwrite,
            retry_errors=job.retry_errors,
            is_stale=partial(output.is_stale, source) if job.update else lambda row: False,
        )
        summary.errors_skipped = len(sink.error_names & done)
        if done:
            output.review(source)
        monitor.start(source.num_samples(without=done))

        def emit(key: str, alts: Alts, answer: Answer) -> None:
            output.write(key, alts, answer)
            monitor.answered(key, answer)

        def is_new(key: str) -> bool:
            summary.skipped += key in done
            return key not in done

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
    return Sidecars(source.root, job.sidecar, job.overwrite)
