"""`altogether-rt caption`: a folder of images, with their alt-texts, to a file of captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from altogether_rt.captions import CaptionParams
from altogether_rt.cli.caption_report import note_inputs, report
from altogether_rt.cli.device import DeviceOption, check_gpu
from altogether_rt.cli.output import Output, Progress
from altogether_rt.data.embeddings import EncoderStamp
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.rows import Row
from altogether_rt.data.sinks.sheet import write_sheet
from altogether_rt.jobs.folder import (
    CaptionJob,
    CaptionSummary,
    Inputs,
    caption_folder,
    read_inputs,
)
from altogether_rt.jobs.processes import WorkerPool
from altogether_rt.jobs.tasks import SupportsCaptions
from altogether_rt.speculation.planner import Speculation

if TYPE_CHECKING:
    from altogether_rt.captioner import Captioner

__all__ = ["caption_command"]

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images, or one image.")]
Alts = Annotated[
    Path | None,
    typer.Option(
        "--alt",
        metavar="FILE",
        help="Alt-texts: JSON lines with file_name and alt (a text or several), metadata.jsonl, "
        ".json or .csv. Looked for here, then in DIR.",
    ),
]
Bundle = Annotated[str, typer.Option(help="Folder of an exported captioner, or starter.")]
Out = Annotated[Path, typer.Option(metavar="FILE", help="Where the captions go, a row an image.")]
Recursive = Annotated[bool, typer.Option(help="Go into subfolders.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Captions written at once.")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest caption, in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="0: always the likeliest token.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Share of likely tokens kept.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the choices made where temperature is not 0.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many images.")]
Sidecar = Annotated[
    str | None, typer.Option(metavar=".txt", help="Also write photo.txt beside photo.jpg.")
]
Sheet = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Also write a contact sheet to look at.")
]
Embeddings = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Saved embeddings (.npy, .parquet) to use for the images."),
]
SaveEmbeddings = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also save the images' embeddings (.npy, .parquet)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace captions already there.")]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Try failed images again.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes that share the images; the captions are the same.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Compute threads of a worker; if not set they share all cores."),
]
SpeculationOption = Annotated[
    Speculation,
    typer.Option(
        metavar="auto|on|off",
        help="Verify several tokens at once, guessed from the alt-text; changes no caption.",
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        min=1, help="Larger images are not decoded; memory grows with it (12 bytes each)."
    ),
]
FastJpeg = Annotated[
    bool,
    typer.Option(
        "--fast-jpeg",
        help="Decode large JPEGs at a part of their size: faster, and pixels differ a little.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The summary as one JSON line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]


@dataclasses.dataclass(frozen=True)
class _CaptionerOptions:
    """Which captioner, and how it writes. None leaves the bundle's own default."""

    bundle: str
    device: str
    threads: int | None
    batch_size: int | None
    params: dict[str, Any]
    speculation: Speculation = "auto"
    workers: int = 1


def caption_command(
    folder: Folder,
    alt: Alts = None,
    bundle: Bundle = "starter",
    out: Out = Path("captions.jsonl"),
    recursive: Recursive = True,
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = 0,
    limit: Limit = None,
    sidecar: Sidecar = None,
    sheet: Sheet = None,
    embeddings: Embeddings = None,
    save_embeddings: SaveEmbeddings = None,
    overwrite: Overwrite = False,
    retry_errors: RetryErrors = False,
    device: DeviceOption = "auto",
    threads: Threads = None,
    workers: Workers = 1,
    speculation: SpeculationOption = "auto",
    max_pixels: MaxPixels = ImageLimits.max_pixels,
    fast_jpeg: FastJpeg = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Caption a folder of images with their alt-texts.

    Every image gives one row: its caption, or why there is none. A run that was stopped goes on
    where it was when the same command is given again; captions that are there are kept.
    """
    limits = ImageLimits(max_pixels=max_pixels)
    if embeddings is not None and save_embeddings is not None:
        raise typer.BadParameter("it goes without --embeddings.", param_hint="--save-embeddings")
    job = CaptionJob(
        folder, out, alt, recursive, limit, sidecar, overwrite, retry_errors, limits, fast_jpeg
    )
    if embeddings is not None or save_embeddings is not None:
        job = dataclasses.replace(
            job,
            embeddings=embeddings,
            save_embeddings=save_embeddings,
            encoder=_encoder_stamp(bundle, fast_jpeg),
        )
    params = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    options = _CaptionerOptions(bundle, device, threads, batch_size, params, speculation, workers)
    _run(job, options, sheet, Output(as_json=as_json, quiet=quiet))


def _run(job: CaptionJob, options: _CaptionerOptions, sheet: Path | None, output: Output) -> None:
    check_gpu(options.device)
    inputs = read_inputs(job)
    note_inputs(job, inputs, output)
    with _opened(options) as (captioner, params):
        try:
            summary = _caption_with_progress(job, inputs, captioner, params, output)
        except KeyboardInterrupt:
            output.error(
                "Interrupted: the captions so far are kept; give the same command to go on."
            )
            raise typer.Exit(130) from None
    shown = None
    if sheet is not None:
        shown = write_sheet(job.out, inputs.scan.root, sheet, limits=job.limits)
    report(job, inputs, summary, sheet if shown else None, output)


def _encoder_stamp(bundle: str, fast_jpeg: bool) -> EncoderStamp:
    from altogether_rt.artifacts.bundle import Bundle

    manifest = Bundle.load(bundle, verify_hashes=False).manifest  # checked when it is opened
    decoding = "fast-jpeg" if fast_jpeg else "exact"
    return EncoderStamp(manifest.encoder_id, manifest.config.encoder.embed_dim, decoding)


@contextmanager
def _opened(
    options: _CaptionerOptions,
) -> Iterator[tuple[SupportsCaptions | WorkerPool, CaptionParams]]:
    """What captions with these options, here or in workers, and its parameters."""
    if options.workers > 1:
        yield _make_pool(options)
    else:
        with _load_captioner(options) as captioner:
            yield captioner, captioner.params(**options.params)


def _make_pool(options: _CaptionerOptions) -> tuple[WorkerPool, CaptionParams]:
    from altogether_rt.captioner import Captioner, caption_params
    from altogether_rt.runtime.ort_session import available_cores
    from altogether_rt.runtime.select import DEFAULT_SLOTS, load_bundle

    bundle = load_bundle(options.bundle, options.device)  # checked once, for all of them
    slots = options.batch_size or DEFAULT_SLOTS
    threads = options.threads or max(1, available_cores() // options.workers)
    open_captioner = partial(
        Captioner.load,
        bundle,
        device=options.device,
        threads=threads,
        num_slots=slots,
        speculation=options.speculation,
    )
    pool = WorkerPool(
        options.workers, open_captioner, bundle.bundle_id, slots=slots, read_threads=threads
    )
    return pool, caption_params(bundle.config, **options.params)


def _load_captioner(options: _CaptionerOptions) -> Captioner:
    from altogether_rt.captioner import Captioner

    return Captioner.load(
        options.bundle,
        device=options.device,
        threads=options.threads,
        num_slots=options.batch_size,
        speculation=options.speculation,
    )


def _caption_with_progress(
    job: CaptionJob,
    inputs: Inputs,
    captioner: SupportsCaptions | WorkerPool,
    params: CaptionParams,
    output: Output,
) -> CaptionSummary:
    with ExitStack() as stack:
        progress: list[Progress] = []

        def on_start(todo: int) -> None:
            progress.append(stack.enter_context(output.progress(todo, "images")))

        def on_row(row: Row) -> None:
            progress[0].advance()

        return caption_folder(job, inputs, captioner, params, on_start, on_row)
