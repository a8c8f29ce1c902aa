"""`altogether-rt mix`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from altogether_rt.cli.output import Output
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.draw import MixDraw
from altogether_rt.mixing.formats import epoch_path
from altogether_rt.mixing.mixture import MixPlan, MixSummary, mix

__all__ = ["DEFAULT_RATIO", "mix_command"]

#: The share with which the paper trains CLIP.
DEFAULT_RATIO = 0.15

_DEFAULT_OUT = {
    "rows": "mixed.jsonl",
    "open-clip": "mixed.tsv",
    "imagefolder": "metadata.jsonl",
    "metaclip": "mixed.json",
}


def mix_command(
    captions: Annotated[
        Path,
        typer.Argument(
            metavar="CAPTIONS",
            help="Rows of `caption`, other JSON lines or tables with file_name and caption, a "
            ".json file of {uuid: caption}, or MetaCLIP's folder of such files.",
        ),
    ],
    alt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File of alt-texts to use instead of those in CAPTIONS."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write. Default: mixed.jsonl, mixed.tsv, metadata.jsonl or "
            "mixed.json, depending on the format. open-clip: a .csv file is separated by "
            "commas instead of tabs.",
        ),
    ] = None,
    layout: Annotated[
        Literal["rows", "open-clip", "imagefolder", "metaclip"],
        typer.Option(
            "--format",
            help="rows: file_name, text, source, epoch. open-clip: filepath, title. imagefolder: "
            "metadata.jsonl of file_name, text. metaclip: {uuid: caption} of the captions drawn.",
        ),
    ] = "rows",
    ratio: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Probability that a text is the caption. Default: 0.15; with --only-captions 1.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same choices.")] = 0,
    epochs: Annotated[
        int,
        typer.Option(
            min=1, help="Number of draws, each in a file of its own: OUT-epoch0 and so on."
        ),
    ] = 1,
    only_captions: Annotated[
        bool, typer.Option("--only-captions", help="Leave out images that have no caption.")
    ] = False,
    images: Annotated[
        str, typer.Option(metavar="DIR", help="open-clip: folder to prefix file names with.")
    ] = "",
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Write the texts to train CLIP or an image generator with: alt-texts, a share of which is
    replaced by captions. Whether the text of an image is its caption depends on its name, the seed
    and the epoch alone; an image that has its caption at one ratio has it at every higher ratio.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if ratio is None:
        ratio = 1.0 if only_captions else DEFAULT_RATIO
    if images and layout != "open-clip":
        raise AltogetherError(
            "--images is an option of --format open-clip: remove it, or use that format."
        )
    plan = MixPlan(MixDraw(ratio, seed), layout, epochs, only_captions, images)
    out = out or Path(_DEFAULT_OUT[layout])
    with output.progress(None, "images") as progress:
        summary = mix(captions, out, plan, alts=alt, overwrite=overwrite, advance=progress.advance)
    asked = {"out": str(out), "format": layout, "ratio": ratio, "seed": seed, "epochs": epochs}
    output.result({**asked, **summary.to_dict()}, _sentences(out, plan, summary))
    if summary.problems:
        output.note(f"records that cannot be read: {summary.problems}")
    if summary.num_absent:
        output.note(_absent(out, plan, summary))


def _absent(out: Path, plan: MixPlan, summary: MixSummary) -> str:
    """Images that are not where the file that was written says they are."""
    count = f"{summary.num_absent} of the first {summary.num_looked_for} images are not"
    if plan.layout == "imagefolder":
        return f"{count} beside {out}, where datasets looks for them: put it in their folder."
    folder = plan.images or "this folder"
    return f"{count} in {folder}: give the folder as it is called where open_clip runs (--images)."


def _sentences(out: Path, plan: MixPlan, summary: MixSummary) -> list[str]:
    """The summary as text."""
    epochs = "" if plan.num_epochs == 1 else f" in {plan.num_epochs} epochs"
    share = "" if summary.share is None else f", {100 * summary.share:.2f} % captions"
    names = [str(epoch_path(out, n, plan.num_epochs)) for n in (0, plan.num_epochs - 1)]
    written = " … ".join(dict.fromkeys(names))
    lines = [f"{written}: {summary.num_captions + summary.num_alts} texts{epochs}{share}."]
    counted = {
        "alt-texts taken because the caption is missing": summary.num_missing_captions,
        "images left out of an epoch because there is no text": summary.num_left_out,
        "images that could not be captioned": summary.num_failed,
        "records skipped because the image had one before": summary.num_repeated,
    }
    lines += [f"{what}: {count}" for what, count in counted.items() if count]
    if plan.layout == "metaclip":
        lines.append(
            "It has only the captions drawn: let the loader use all of them (probability 1)."
        )
    return lines
