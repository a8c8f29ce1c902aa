"""Options that say where alt-texts come from, and where captions go as alt-texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.data.alt_files.embedded import Embedded

__all__ = [
    "AltBeside",
    "AltEmbedded",
    "AltKey",
    "Alts",
    "ImageKey",
    "Strict",
    "WriteAlt",
    "check_alt_options",
]

Alts = Annotated[
    Path | None,
    typer.Option(
        "--alt",
        metavar="FILE",
        help="File of alt-texts: JSON lines with file_name and alt (a text or a list), "
        "metadata.jsonl, .json, .csv, .tsv or .parquet, optionally .gz or .zst. Searched "
        "for here, then in INPUT.",
    ),
]
AltBeside = Annotated[
    str | None,
    typer.Option(
        metavar="SUFFIX",
        help="Read alt-texts from files beside the images: .txt, .json, or a metadata.jsonl in"
        " each folder.",
    ),
]
AltEmbedded = Annotated[
    Embedded | None,
    typer.Option(
        metavar="alt|description",
        help="Read alt-texts from the images' XMP: the IPTC alt-text; with description, fall "
        "back to the description.",
    ),
]
AltKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Column or key of the alt-texts; for shards, several are allowed: 'txt;json:caption'.",
    ),
]
ImageKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Column or key of the file names; for shards, of the images: 'jpg;png'.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop if any line of the alt-text file cannot be used.")
]
WriteAlt = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|in-place",
        help="Also write captions as alt-text into the XMP of JPEG, PNG and WebP images: into "
        "copies in DIR, or into the images themselves.",
    ),
]


def check_alt_options(
    alt: Path | None, alt_beside: str | None, alt_embedded: Embedded | None, sidecar: str | None
) -> None:
    """Raise a usage error if two of them are given that exclude each other."""
    if alt is not None and alt_beside is not None:
        raise typer.BadParameter("it goes without --alt.", param_hint="--alt-beside")
    if alt_embedded is not None and (alt is not None or alt_beside is not None):
        raise typer.BadParameter(
            "it goes without --alt and --alt-beside.", param_hint="--alt-embedded"
        )
    if alt_beside is not None and alt_beside == sidecar:
        raise typer.BadParameter("--sidecar would write over them.", param_hint="--alt-beside")
