"""`caption` of a folder of images: the job that its arguments describe, and the run of it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from altogether_rt.cli.alt_options import check_alt_options
from altogether_rt.cli.caption_notes import captioner_notes
from altogether_rt.cli.caption_options import refuse
from altogether_rt.cli.caption_prompt import caption_checker
from altogether_rt.cli.commands.caption.arguments import CaptionArguments
from altogether_rt.cli.commands.caption.report import dry_run, report
from altogether_rt.cli.device import check_gpu
from altogether_rt.cli.downloads import ensure_captioner
from altogether_rt.cli.run_output import RunOutput
from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.sinks.journal import Journal
from altogether_rt.data.sinks.sheet import check_sheet, write_sheet
from altogether_rt.data.sinks.stream import is_standard_output, is_stream
from altogether_rt.data.sniff import IMAGE_SUFFIXES
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.folder import CaptionJob, EmbeddingFiles, caption_folder, open_folder

if TYPE_CHECKING:
    from altogether_rt.opening import ResolvedCaptioner

__all__ = ["folder_job", "run_folder_job", "used_files"]

#: Suffixes of files that people would open with another program than one for JSON lines.
_OTHER_FORMATS = frozenset({".csv", ".tsv", ".xlsx", ".ods", ".parquet", ".html", *IMAGE_SUFFIXES})


def folder_job(given: CaptionArguments, share: KeyShare | None) -> CaptionJob:
    """The job, without what only the captioner says.

    Raises typer.BadParameter for an option of shards, and for options that exclude each other.
    """
    refuse(
        "it is for shards, and this is a folder of images.",
        {
            "--join": given.join,
            "--only-missing": given.only_missing,
            "--engine": given.engine != "local",
            "--ray-address": given.ray_address,
        },
    )
    out = Path(given.out or "captions.jsonl")
    _check_options(given, out)
    return CaptionJob(
        folder=Path(given.inputs[0]),
        out=out,
        alts=given.alt,
        columns=Columns(given.image_key, given.alt_key),
        beside=given.alt_beside,
        embedded=given.alt_embedded,
        write_alt=given.write_alt,
        strict=given.strict,
        recursive=given.recursive,
        limit=given.limit,
        share=share,
        sidecar=given.sidecar,
        overwrite=given.overwrite,
        retry_errors=given.retry_errors,
        update=given.update,
        limits=ImageLimits(max_pixels=given.max_pixels),
        fast_jpeg=given.fast_jpeg,
        hygiene=given.hygiene(),
    )


def _check_options(given: CaptionArguments, out: Path) -> None:
    if given.dry_run and given.embeddings is not None:
        raise typer.BadParameter("it reads the images.", param_hint="--dry-run")
    if given.embeddings is not None and given.save_embeddings is not None:
        raise typer.BadParameter("it goes without --embeddings.", param_hint="--save-embeddings")
    if out.suffix.lower() in _OTHER_FORMATS and not out.exists():
        raise typer.BadParameter(
            f"rows are JSON lines, and {out} is named like something else: name a .jsonl file.",
            param_hint="--out",
        )
    if given.sheet is not None and is_stream(out):
        raise typer.BadParameter(
            "it needs a file of rows: name one by --out.", param_hint="--sheet"
        )
    check_alt_options(given.alt, given.alt_beside, given.alt_embedded, given.sidecar)


def used_files(job: CaptionJob, given: CaptionArguments) -> tuple[Path | None, ...]:
    """What a run reads or writes, and a log must not be."""
    journal = Path(f"{job.out}.part")
    return (job.out, job.alts, given.sheet, given.embeddings, given.save_embeddings, journal)


def run_folder_job(
    job: CaptionJob, given: CaptionArguments, params: Mapping[str, Any], run: RunOutput
) -> None:
    """Caption the folder, and report. params: as `CaptionArguments.read_params` gives them.

    Raises AltogetherError if there is no such captioner, or none of the images could be captioned.
    """
    if not given.dry_run:
        check_gpu(given.device)
    source = _open_source(job, given, run)
    if given.dry_run:
        dry_run(job, source, run)
        return
    if is_stream(job.out):
        run.output.note(
            f"Rows go to {job.out} as they are made: a run that is stopped cannot be continued."
        )
    _caption(job, source, given, params, run)


def _open_source(job: CaptionJob, given: CaptionArguments, run: RunOutput) -> FolderSource:
    output = run.output
    with output.progress(None, "alt-texts") as progress:
        source = open_folder(job, lambda count: progress.advance(count - progress.done))
    if given.sheet is not None:
        check_sheet(given.sheet)
    for note in source.notes():
        output.note(note)
    return source


def _caption(
    job: CaptionJob,
    source: FolderSource,
    given: CaptionArguments,
    overrides: Mapping[str, Any],
    run: RunOutput,
) -> None:
    from altogether_rt.captions import caption_params
    from altogether_rt.jobs.open import fitting_workers, open_executor
    from altogether_rt.opening import resolve_captioner

    output = run.output
    _check_writable(job.out)
    ensure_captioner(given.bundle, output, device=given.device, download=given.download)
    captioner = resolve_captioner(
        given.bundle,
        device=given.device,
        dtype=given.dtype,
        kv_cache=given.kv_cache,
        allow_download=given.allow_download,
    )
    notes = captioner_notes(captioner, source)
    for note in notes:
        output.note(f"Note: {note}")
    embeddings = _embedding_files(given, captioner)
    params = caption_params(captioner.config, **overrides)
    checker = caption_checker(captioner.config, params, given.checks)
    job = dataclasses.replace(job, embeddings=embeddings, checker=checker)
    workers = fitting_workers(captioner, given.workers or 1, source.num_samples(), output.note)
    output.event(
        "info", "captioner", f"captions with {captioner.name}", workers=workers,
        bundle=captioner.bundle_id, target=captioner.target, device=captioner.device,
    )  # fmt: skip
    with output.progress(None, "images", run.observers) as monitor:
        opened = open_executor(
            captioner, workers=workers, **given.execution(), on_restart=monitor.restarted
        )
        with opened as executor:
            summary = caption_folder(job, source, executor, params, monitor)
    shown = None
    if given.sheet is not None:
        try:
            shown = write_sheet(job.out, source.root, given.sheet, limits=job.limits, notes=notes)
        except OSError as error:
            raise AltogetherError(
                f"{given.sheet} cannot be written ({error.strerror or error}); the captions are in "
                f"{job.out}: give the same command for the sheet alone."
            ) from error
    summed = given.sheet if shown else None
    with redirect_stdout(sys.stderr) if is_standard_output(job.out) else nullcontext():
        by = {"name": captioner.name, "target": captioner.target}
        report(job, source, summary, summed, output, monitor.state(), notes, by)


def _check_writable(out: Path) -> None:
    """Raise AltogetherError, before a captioner is fetched and opened, if rows cannot be written.

    The journal of an earlier run stays as it is; one that is made for this is removed.
    """
    if is_stream(out):
        return
    if out.is_dir():
        raise AltogetherError(f"{out} is a folder: --out must name a file.")
    if out.is_symlink() and not out.exists():
        return  # a link to nothing is explained where it is followed
    try:
        Journal(Path(os.path.realpath(out))).close()
    except OSError as error:
        raise AltogetherError(
            f"{out} cannot be written ({error.strerror}): choose another --out."
        ) from error


def _embedding_files(
    given: CaptionArguments, captioner: ResolvedCaptioner
) -> EmbeddingFiles | None:
    if given.embeddings is None and given.save_embeddings is None:
        return None
    return EmbeddingFiles(
        captioner.encoder_stamp(fast_jpeg=given.fast_jpeg),
        read=given.embeddings,
        save=given.save_embeddings,
    )
