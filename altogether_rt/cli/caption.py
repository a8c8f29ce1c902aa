"""`altogether-rt caption`: a folder of images, with their alt-texts, to a file of captions."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from altogether_rt.cli.device import DeviceOption, check_gpu
from altogether_rt.cli.output import Output, Progress, format_duration
from altogether_rt.data.alts import MAX_ALT_CHARS
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.problems import Problems
from altogether_rt.data.rows import Row
from altogether_rt.data.sheet import write_sheet
from altogether_rt.errors import AltogetherError
from altogether_rt.generation.params import CaptionParams
from altogether_rt.generation.speculation import Speculation
from altogether_rt.pipeline import CaptionJob, CaptionSummary, Inputs, caption_folder, read_inputs

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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace captions already there.")]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Try failed images again.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Compute threads; all cores if not set.")]
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
    overwrite: Overwrite = False,
    retry_errors: RetryErrors = False,
    device: DeviceOption = "auto",
    threads: Threads = None,
    speculation: SpeculationOption = "auto",
    max_pixels: MaxPixels = ImageLimits.max_pixels,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Caption a folder of images with their alt-texts.

    Every image gives one row: its caption, or why there is none. A run that was stopped goes on
    where it was when the same command is given again; captions that are there are kept.
    """
    limits = ImageLimits(max_pixels=max_pixels)
    job = CaptionJob(folder, out, alt, recursive, limit, sidecar, overwrite, retry_errors, limits)
    params = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    options = _CaptionerOptions(bundle, device, threads, batch_size, params, speculation)
    _run(job, options, sheet, Output(as_json=as_json, quiet=quiet))


def _run(job: CaptionJob, options: _CaptionerOptions, sheet: Path | None, output: Output) -> None:
    check_gpu(options.device)
    inputs = read_inputs(job)
    _note_inputs(job, inputs, output)
    with _load_captioner(options) as captioner:
        params = captioner.params(**options.params)
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
    _report(job, inputs, summary, sheet if shown else None, output)


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
    job: CaptionJob, inputs: Inputs, captioner: Captioner, params: CaptionParams, output: Output
) -> CaptionSummary:
    with ExitStack() as stack:
        progress: list[Progress] = []

        def on_start(todo: int) -> None:
            progress.append(stack.enter_context(output.progress(todo, "images")))

        def on_row(row: Row) -> None:
            progress[0].advance()

        return caption_folder(job, inputs, captioner, params, on_start, on_row)


def _note_inputs(job: CaptionJob, inputs: Inputs, output: Output) -> None:
    """What the user should know about the inputs before waiting for the captions."""
    if inputs.scan.problems:
        output.note(f"Left out in {job.folder}: {inputs.scan.problems}.")
    for problems, what in (
        (inputs.alts.problems, "lines of the alt-text file cannot be used"),
        (inputs.alts_without_image, "alt-texts have no image in the folder"),
    ):
        if problems:
            output.note(f"{problems.count:,} {what}: {problems}.")
    if inputs.alts.num_truncated:
        output.note(
            f"{inputs.alts.num_truncated:,} images have alt-texts of more than "
            f"{MAX_ALT_CHARS:,} characters: the rest is left out, and the rows say so."
        )
    if job.alts is None:
        for name in ("alts.jsonl", "metadata.jsonl"):
            if (inputs.scan.root / name).is_file():
                output.note(f"{job.folder} holds {name}: give --alt {name} to use its alt-texts.")


def _report(
    job: CaptionJob, inputs: Inputs, summary: CaptionSummary, sheet: Path | None, output: Output
) -> None:
    """The summary; exits with 1 if not one image could be captioned."""
    if summary.sidecars_kept:
        kept = summary.sidecars_kept
        output.note(f"{kept.count:,} sidecar files hold other text and were left alone: {kept}.")
    output.result(_summary_data(job, inputs, summary, sheet), _sentence(job, summary))
    if sheet is not None:
        output.show(f"Look at them in {sheet}.")
    if summary.num_failed and not summary.captioned and not summary.skipped:
        raise AltogetherError(
            f"none of the {summary.num_failed:,} images could be captioned: "
            f"{job.out} says why for each."
        )


def _sentence(job: CaptionJob, summary: CaptionSummary) -> str:
    rate = summary.captioned / summary.seconds if summary.seconds > 0 else 0.0
    took = f" in {format_duration(summary.seconds)} ({rate:.1f} images/s)"
    parts = [f"{summary.captioned:,} captioned" + (took if summary.captioned else "")]
    if summary.skipped:
        parts.append(f"{summary.skipped:,} skipped (already there)")
    if summary.num_failed:
        classes = ", ".join(f"{count:,} {kind}" for kind, count in summary.failed.most_common())
        parts.append(f"{summary.num_failed:,} failed ({classes})")
    return f"{job.out}: {', '.join(parts)}."


def _summary_data(
    job: CaptionJob, inputs: Inputs, summary: CaptionSummary, sheet: Path | None
) -> dict[str, Any]:
    return {
        "out": str(job.out),
        "sheet": None if sheet is None else str(sheet),
        "images": len(inputs.names),
        "captioned": summary.captioned,
        "skipped": summary.skipped,
        "failed": dict(summary.failed),
        "seconds": round(summary.seconds, 3),
        "other_files": inputs.scan.num_other,
        "folders_left_out": _problems_data(inputs.scan.problems),
        "alt_lines_unusable": _problems_data(inputs.alts.problems),
        "alts_without_image": _problems_data(inputs.alts_without_image),
        "alts_truncated": inputs.alts.num_truncated,
        "sidecars_kept": _problems_data(summary.sidecars_kept),
    }


def _problems_data(problems: Problems) -> dict[str, Any]:
    return {"count": problems.count, "examples": problems.examples}
