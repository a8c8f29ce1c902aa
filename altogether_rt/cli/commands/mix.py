"""`altogether-rt mix`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from altogether_rt.cli.output import Output
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.draw import MixDraw
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
            help="Rows of caption, any JSON lines with file_name and caption, {uuid: caption} in a "
            ".json, or MetaCLIP's folder of such.",
        ),
    ],
    alt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Alt-texts, instead of those in the rows."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the texts go. Default: mixed.jsonl, mixed.tsv, metadata.jsonl or "
            "mixed.json, by format. open-clip: comma-separated if it ends in .csv.",
        ),
    ] = None,
    layout: Annotated[
        Literal["rows", "open-clip", "imagefolder", "metaclip"],
        typer.Option(
            "--format",
            help="rows: file_name, text, source, epoch. open-clip: filepath, title. imagefolder: "
            "metadata.jsonl of file_name, text. metaclip: {uuid: caption} of the drawn captions.",
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
    seed: Annotated[int, typer.Option(help="The same seed makes the same choices.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=1, help="Draw so many times: a file each, OUT-epoch0 and so on.")
    ] = 1,
    only_captions: Annotated[
        bool, typer.Option("--only-captions", help="Leave out images that have no caption.")
    ] = False,
    images: Annotated[
        str, typer.Option(metavar="DIR", help="open-clip: what goes before a file's name.")
    ] = "",
    overwrite: Annotated[bool, typer.Option(help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Result as one JSON line.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Write the texts that CLIP, or a generator of images, is trained with: alt-texts, a share of
    them replaced by captions. Whether a text is the caption depends on image, seed and epoch alone,
    and what is a caption at one ratio is one at every higher ratio.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if ratio is None:
        ratio = 1.0 if only_captions else DEFAULT_RATIO
    if images and layout != "open-clip":
        raise AltogetherError("--images goes with --format open-clip: drop one of them.")
    plan = MixPlan(MixDraw(ratio, seed), layout, epochs, only_captions, images)
    out = out or Path(_DEFAULT_OUT[layout])
    with output.progress(None, "images") as progress:
        summary = mix(captions, out, plan, alts=alt, overwrite=overwrite, advance=progress.advance)
    asked = {"out": str(out), "format": layout, "ratio": ratio, "seed": seed, "epochs": epochs}
    output.result({**asked, **summary.to_dict()}, _sentences(out, plan, summary))
    if summary.problems:
        output.note(f"left out, unreadable: {summary.problems}")


def _sentences(out: Path, plan: MixPlan, summary: MixSummary) -> str:
    """What was written, in words."""
    epochs = "" if plan.num_epochs == 1 else f" in {plan.num_epochs} epochs"
    share = "" if summary.share is None else f", {100 * summary.share:.2f} % captions"
    lines = [f"{out}: {summary.num_captions + summary.num_alts} texts{epochs}{share}."]
    counted = {
        "alt-texts taken because the caption is missing": summary.num_missing_captions,
        "texts left out because there is none": summary.num_left_out,
        "images that could not be captioned": summary.num_failed,
        "further captions of an image, left out": summary.num_repeated,
    }
    lines += [f"{what}: {count}" for what, count in counted.items() if count]
    if plan.layout == "metaclip":
        lines.append("Only drawn captions are listed: the loader is to take all of them (p = 1).")
    return "\n".join(lines)
