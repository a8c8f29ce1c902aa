"""`altogether-rt caption`: a folder of images, with their alt-texts, to a file of captions."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from altogether_rt.cli.caption_report import dry_run, report
from altogether_rt.cli.device import DeviceOption, check_gpu
from altogether_rt.cli.hygiene import AltLanguage, DropBoilerplate, DropNoiseAlts, UnescapeAlts
from altogether_rt.cli.run_output import (
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
from altogether_rt.data.sinks.sheet import check_sheet, write_sheet
from altogether_rt.data.sinks.stream import is_standard_output, is_stream
from altogether_rt.data.sources.sampling import KeyShare
from altogether_rt.jobs.folder import CaptionJob, EmbeddingFiles, caption_folder, open_folder
from altogether_rt.monitoring.display import ProgressMode
from altogether_rt.speculation.planner import Speculation

if TYPE_CHECKING:
    from altogether_rt.opening import ResolvedCaptioner

__all__ = ["caption_command"]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images, or one image.")]
BundleName = Annotated[str, typer.Option(help="Folder of a bundle or a checkpoint, or `starter`.")]
Out = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Output file, one row per image; - for standard output."),
]
Recursive = Annotated[bool, typer.Option(help="Go into subfolders.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Captions generated at once (32).")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Maximum caption length in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="Temperature; 0 is greedy.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Nucleus sampling probability.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of temperature > 0, and of --sample.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Caption only the first N images.")]
Sample = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Caption only this share of the images, 0.001 for example; by their names and --seed.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Read everything and count errors; load and write nothing."),
]
Sidecar = Annotated[
    str | None, typer.Option(metavar=".txt", help="Also write photo.txt beside photo.jpg.")
]
Sheet = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Also write an HTML contact sheet.")
]
Embeddings = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Saved embeddings (.npy, .parquet) to use for the images."),
]
SaveEmbeddings = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also save the embeddings of the images (.npy, .parquet)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing captions.")]
Update = Annotated[
    bool, typer.Option("--update", help="Caption again what changed: images and alt-texts.")
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Try failed images again.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Number of processes; the captions are the same.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Compute threads per worker; by default the workers share all cores."),
]
SpeculationOption = Annotated[
    Speculation,
    typer.Option(
        metavar="auto|on|off",
        help="Verify several draft tokens per step; it is faster and changes no caption.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        min=1, help="Refuse images with more pixels; memory grows with it (12 bytes each)."
    ),
]
FastJpeg = Annotated[
    bool,
    typer.Option(
        "--fast-jpeg",
        help="Decode large JPEGs at reduced size: faster, and pixels differ slightly.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Everything besides the job. None leaves the captioner's own default."""

    bundle: str
    device: str
    params: Mapping[str, Any]
    workers: int
    execution: Mapping[str, Any]  # as `open_executor` takes it
    read_embeddings: Path | None
    save_embeddings: Path | None
    sheet: Path | None
    dry_run: bool


def caption_command(
    context: typer.Context,
    folder: Folder,
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
    out: Out = Path("captions.jsonl"),
    recursive: Recursive = True,
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
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
    device: DeviceOption = "auto",
    threads: Threads = None,
    workers: Workers = 1,
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
    """Caption a folder of images with their alt-texts.

    Every image gives one row: its caption, or the reason why there is none. A run that was stopped
    continues when the same command is given again; existing captions are kept.
    """
    if dry_run and embeddings is not None:
        raise typer.BadParameter("it reads the images.", param_hint="--dry-run")
    if embeddings is not None and save_embeddings is not None:
        raise typer.BadParameter("it goes without --embeddings.", param_hint="--save-embeddings")
    if sheet is not None and is_stream(out):
        raise typer.BadParameter(
            "it needs a file of rows: name one by --out.", param_hint="--sheet"
        )
    check_alt_options(alt, alt_beside, alt_embedded, sidecar)
    reporting = Reporting(progress, log_file, log_json, metrics_file)
    job = CaptionJob(
        folder=folder,
        out=out,
        alts=alt,
        columns=Columns(image_key, alt_key),
        beside=alt_beside,
        embedded=alt_embedded,
        write_alt=write_alt,
        strict=strict,
        recursive=recursive,
        limit=limit,
        share=None if sample is None else KeyShare(sample, seed),
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
        params={
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
        },
        workers=workers,
        execution={
            "threads": threads,
            "num_slots": batch_size,
            "speculation": speculation,
        },
        read_embeddings=embeddings,
        save_embeddings=save_embeddings,
        sheet=sheet,
        dry_run=dry_run,
    )
    used = (out, alt, sheet, embeddings, save_embeddings, out.with_name(out.name + ".part"))
    with open_run_output(
        "caption",
        context.params,
        reporting,
        used,
        as_json=as_json,
        quiet=quiet,
        interrupted="Interrupted: the captions so far are kept; give the same command to go on.",
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
    captioner = resolve_captioner(options.bundle, device=options.device)
    job = _with_embeddings(job, options, captioner)
    params = caption_params(captioner.config, **options.params)
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
        shown = write_sheet(job.out, source.root, options.sheet, limits=job.limits)
    with redirect_stdout(sys.stderr) if is_standard_output(job.out) else nullcontext():
        report(job, source, summary, options.sheet if shown else None, output, monitor.state())


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
