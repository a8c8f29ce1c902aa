"""`altogether-rt caption`: a folder of images, with their alt-texts, to a file of captions."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from altogether_rt.cli.alt_options import (
    AltBeside,
    AltEmbedded,
    AltKey,
    Alts,
    ImageKey,
    Strict,
    WriteAlt,
    check_alt_options,
)
from altogether_rt.cli.caption_notes import captioner_notes
from altogether_rt.cli.caption_options import (
    BatchSize,
    BundleName,
    Checks,
    DryRun,
    Embeddings,
    EngineOption,
    FastJpeg,
    Inputs,
    JoinOn,
    JoinOption,
    Json,
    LayoutOption,
    Limit,
    LoopRepeats,
    MaxNewTokens,
    MaxPixels,
    OnlyMissing,
    Out,
    Overwrite,
    PromptText,
    Quiet,
    RayAddress,
    Recursive,
    RetryErrors,
    Sample,
    SaveEmbeddings,
    Seed,
    Sheet,
    Sidecar,
    SpeculationOption,
    SpoolBytes,
    SpoolOption,
    Style,
    Temperature,
    Threads,
    TopP,
    Update,
    Workers,
    refuse,
)
from altogether_rt.cli.caption_prompt import caption_checker, prompt_text
from altogether_rt.cli.caption_report import dry_run, report
from altogether_rt.cli.checkpoint import AllowDownload
from altogether_rt.cli.device import DeviceOption, check_gpu
from altogether_rt.cli.downloads import Download, ensure_bundle
from altogether_rt.cli.hygiene import AltLanguage, DropBoilerplate, DropNoiseAlts, UnescapeAlts
from altogether_rt.cli.run_output import (
    INTERRUPTED,
    LogFileOption,
    LogJsonOption,
    MetricsFileOption,
    ProgressOption,
    Reporting,
    RunOutput,
    open_run_output,
)
from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.hygiene.clean import HygieneOptions
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.listing import is_sharded
from altogether_rt.data.shards.spool import SPOOL_BYTES
from altogether_rt.data.sinks.sheet import check_sheet, write_sheet
from altogether_rt.data.sinks.stream import is_standard_output, is_stream
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.jobs.folder import CaptionJob, EmbeddingFiles, caption_folder, open_folder
from altogether_rt.monitoring.display import ProgressMode

if TYPE_CHECKING:
    from altogether_rt.opening import ResolvedCaptioner

__all__ = ["caption_command"]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Everything besides the job. None leaves the captioner's own default."""

    bundle: str
    device: str
    allow_download: bool
    download: bool
    params: Mapping[str, Any]
    workers: int
    execution: Mapping[str, Any]  # as `open_executor` takes it
    read_embeddings: Path | None
    save_embeddings: Path | None
    sheet: Path | None
    checks: bool | None  # None: of captioners that follow instructions
    dry_run: bool


def caption_command(
    context: typer.Context,
    inputs: Inputs,
    alt: Alts = None,
    alt_beside: AltBeside = None,
    alt_embedded: AltEmbedded = None,
    alt_key: AltKey = None,
    image_key: ImageKey = None,
    strict: Strict = False,
    unescape_alts: UnescapeAlts = False,
    drop_noise_alts: DropNoiseAlts = False,
    drop_boilerplate: DropBoilerplate = False,
    alt_language: AltLanguage = False,
    bundle: BundleName = "starter",
    out: Out = None,
    recursive: Recursive = True,
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    loop_repeats: LoopRepeats = None,
    style: Style = "caption",
    prompt: PromptText = None,
    checks: Checks = None,
    seed: Seed = 0,
    limit: Limit = None,
    sample: Sample = None,
    dry_run: DryRun = False,
    sidecar: Sidecar = None,
    write_alt: WriteAlt = None,
    sheet: Sheet = None,
    embeddings: Embeddings = None,
    save_embeddings: SaveEmbeddings = None,
    overwrite: Overwrite = False,
    retry_errors: RetryErrors = False,
    update: Update = False,
    layout: LayoutOption = "auto",
    join: JoinOption = None,
    join_on: JoinOn = "key",
    spool: SpoolOption = None,
    spool_bytes: SpoolBytes = SPOOL_BYTES,
    only_missing: OnlyMissing = False,
    device: DeviceOption = "auto",
    allow_download: AllowDownload = False,
    download: Download = False,
    threads: Threads = None,
    workers: Workers = None,
    engine: EngineOption = "local",
    ray_address: RayAddress = None,
    speculation: SpeculationOption = "auto",
    max_pixels: MaxPixels = ImageLimits.max_pixels,
    fast_jpeg: FastJpeg = False,
    progress: ProgressOption = ProgressMode.AUTO,
    log_file: LogFileOption = None,
    log_json: LogJsonOption = False,
    metrics_file: MetricsFileOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Caption a folder of images, or a dataset in shards, with their alt-texts.

    Every image gives one row: its caption, or the reason why there is none. A run that was stopped
    continues when the same command is given again; existing captions are kept. Each shard has a
    Parquet file in the folder --out. Exit code 3: some shards lack samples; 1: some failed.
    """
    reporting = Reporting(progress, log_file, log_json, metrics_file)
    share = None if sample is None else KeyShare(sample, seed)
    params = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "loop_repeats": loop_repeats,
        "style": style,
        "prompt": prompt_text(prompt),
        "seed": seed,
    }
    execution = {"threads": threads, "num_slots": batch_size, "speculation": speculation}
    if is_sharded(inputs, layout):
        refuse(
            "it is for folders of images, and these are shards.",
            {
                "--alt": alt,
                "--alt-beside": alt_beside,
                "--alt-embedded": alt_embedded,
                "--write-alt": write_alt,
                "--drop-boilerplate": drop_boilerplate,
                "--strict": strict,
                "--sidecar": sidecar,
                "--sheet": sheet,
                "--embeddings": embeddings,
                "--save-embeddings": save_embeddings,
                "--update": update,
            },
        )
        from altogether_rt.cli.commands.shards.sharded import ShardArguments, caption_sharded

        arguments = ShardArguments(
            bundle=bundle,
            device=device,
            params=params,
            workers=workers,
            execution={**execution, "engine": engine, "ray_address": ray_address},
            out=out or "captions",
            layout=layout,
            image_key=image_key,
            alt_key=alt_key,
            join=join,
            join_on=join_on,
            share=share,
            spool=spool,
            spool_bytes=spool_bytes,
            max_pixels=max_pixels,
            fast_jpeg=fast_jpeg,
            overwrite=overwrite,
            retry_errors=retry_errors,
            hygiene=HygieneOptions(unescape_alts, drop_noise_alts, False, alt_language),
            checks=checks,
            allow_download=allow_download,
            download=download,
        )
        with open_run_output(
            "caption",
            context.params,
            reporting,
            as_json=as_json,
            quiet=quiet,
            interrupted=INTERRUPTED,
        ) as run:
            caption_sharded(
                inputs, arguments, run, limit=limit, only_missing=only_missing, dry_run=dry_run
            )
        return
    refuse(
        "it is for shards, and this is a folder of images.",
        {
            "--join": join,
            "--only-missing": only_missing,
            "--engine": engine != "local",
            "--ray-address": ray_address,
        },
    )
    out_file = Path(out or "captions.jsonl")
    if dry_run and embeddings is not None:
        raise typer.BadParameter("it reads the images.", param_hint="--dry-run")
    if embeddings is not None and save_embeddings is not None:
        raise typer.BadParameter("it goes without --embeddings.", param_hint="--save-embeddings")
    if sheet is not None and is_stream(out_file):
        raise typer.BadParameter(
            "it needs a file of rows: name one by --out.", param_hint="--sheet"
        )
    check_alt_options(alt, alt_beside, alt_embedded, sidecar)
    job = CaptionJob(
        folder=Path(inputs[0]),
        out=out_file,
        alts=alt,
        columns=Columns(image_key, alt_key),
        beside=alt_beside,
        embedded=alt_embedded,
        write_alt=write_alt,
        strict=strict,
        recursive=recursive,
        limit=limit,
        share=share,
        sidecar=sidecar,
        overwrite=overwrite,
        retry_errors=retry_errors,
        update=update,
        limits=ImageLimits(max_pixels=max_pixels),
        fast_jpeg=fast_jpeg,
        hygiene=HygieneOptions(unescape_alts, drop_noise_alts, drop_boilerplate, alt_language),
    )
    options = _Options(
        bundle=bundle,
        device=device,
        allow_download=allow_download,
        download=download,
        params=params,
        workers=workers or 1,
        execution=execution,
        read_embeddings=embeddings,
        save_embeddings=save_embeddings,
        sheet=sheet,
        checks=checks,
        dry_run=dry_run,
    )
    journal = out_file.with_name(out_file.name + ".part")
    used = (out_file, alt, sheet, embeddings, save_embeddings, journal)
    with open_run_output(
        "caption",
        context.params,
        reporting,
        used,
        as_json=as_json,
        quiet=quiet,
        interrupted=INTERRUPTED,
    ) as run:
        _run(job, options, run)


def _run(job: CaptionJob, options: _Options, run: RunOutput) -> None:
    from altogether_rt.captions import caption_params
    from altogether_rt.jobs.open import fitting_workers, open_executor
    from altogether_rt.opening import resolve_captioner

    output = run.output
    if not options.dry_run:
        check_gpu(options.device)
    with output.progress(None, "alt-texts") as progress:
        source = open_folder(job, lambda count: progress.advance(count - progress.done))
    if options.sheet is not None:
        check_sheet(options.sheet)
    for note in source.notes():
        output.note(note)
    if options.dry_run:
        dry_run(job, source, run)
        return
    if is_stream(job.out):
        output.note(
            f"Rows go to {job.out} as they are made: a run that is stopped cannot be continued."
        )
    ensure_bundle(options.bundle, output, device=options.device, download=options.download)
    captioner = resolve_captioner(
        options.bundle, device=options.device, allow_download=options.allow_download
    )
    notes = captioner_notes(captioner, source)
    for note in notes:
        output.note(f"Note: {note}")
    job = _with_embeddings(job, options, captioner)
    params = caption_params(captioner.config, **options.params)
    job = dataclasses.replace(
        job, checker=caption_checker(captioner.config, params, options.checks)
    )
    workers = fitting_workers(captioner, options.workers, source.num_samples(), output.note)
    output.event(
        "info", "captioner", f"captions with {captioner.name}", workers=workers,
        bundle=captioner.bundle_id, target=captioner.target, device=captioner.device,
    )  # fmt: skip
    with output.progress(None, "images", run.observers) as monitor:
        opened = open_executor(
            captioner, workers=workers, **options.execution, on_restart=monitor.restarted
        )
        with opened as executor:
            summary = caption_folder(job, source, executor, params, monitor)
    shown = None
    if options.sheet is not None:
        shown = write_sheet(job.out, source.root, options.sheet, limits=job.limits, notes=notes)
    summed = options.sheet if shown else None
    with redirect_stdout(sys.stderr) if is_standard_output(job.out) else nullcontext():
        report(job, source, summary, summed, output, monitor.state(), notes)


def _with_embeddings(
    job: CaptionJob, options: _Options, captioner: ResolvedCaptioner
) -> CaptionJob:
    if options.read_embeddings is None and options.save_embeddings is None:
        return job
    files = EmbeddingFiles(
        captioner.encoder_stamp(fast_jpeg=job.fast_jpeg),
        read=options.read_embeddings,
        save=options.save_embeddings,
    )
    return dataclasses.replace(job, embeddings=files)
