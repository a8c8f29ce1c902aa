"""The options of `caption` and `caption-shard`, as typer takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from altogether_rt.captions import CaptionStyle
from altogether_rt.data.shards.options import LAYOUTS, Layout
from altogether_rt.speculation.planner import Speculation

__all__ = [
    "BatchSize",
    "BundleName",
    "Checks",
    "DryRun",
    "Embeddings",
    "EngineOption",
    "FastJpeg",
    "Inputs",
    "JoinOn",
    "JoinOption",
    "Json",
    "LayoutOption",
    "Limit",
    "LoopRepeats",
    "MaxNewTokens",
    "MaxPixels",
    "OnlyMissing",
    "Out",
    "Overwrite",
    "PromptText",
    "Quiet",
    "RayAddress",
    "Recursive",
    "RetryErrors",
    "Sample",
    "SaveEmbeddings",
    "Seed",
    "Sheet",
    "Sidecar",
    "SpeculationOption",
    "SpoolBytes",
    "SpoolOption",
    "Style",
    "Temperature",
    "Threads",
    "TopP",
    "Update",
    "Workers",
    "refuse",
]

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="A folder of images, or one image; or shards: tars and Parquet files, folders, "
        "patterns and URLs of them.",
    ),
]

# ------------------------------------------------------------------ captioner, captions

BundleName = Annotated[
    str,
    typer.Option(
        help="Folder of a bundle or checkpoint, or a name: `starter`, one listed by altogether-rt "
        "models, or the id of a captioner on the hub."
    ),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum caption length in tokens. Default: the captioner's."),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.0, help="Sampling temperature; 0 is greedy. Default: the captioner's."),
]
TopP = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Nucleus sampling probability. Default: the captioner's."),
]
Style = Annotated[
    CaptionStyle,
    typer.Option(
        metavar="caption|alt",
        help="alt: write alt-texts for web pages, one sentence of at most 125 characters.",
    ),
]
PromptText = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="What to ask a captioner that follows instructions, or @FILE to read it from; {alt} "
        "marks where the alt-text goes.",
    ),
]
LoopRepeats = Annotated[
    int | None,
    typer.Option(
        min=0, help="End a caption when a passage occurs this many times in a row; 0 never does."
    ),
]
Seed = Annotated[
    int,
    typer.Option(min=0, help="Seed for sampling tokens, and for --sample."),
]

# ------------------------------------------------------------------ which images

Recursive = Annotated[bool, typer.Option(help="Include subfolders.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Caption only the first N images."),
]
Sample = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Caption only this share of the images, such as 0.001, chosen by name and --seed.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Read everything and count errors; load no captioner and write nothing."
    ),
]
MaxPixels = Annotated[
    int,
    typer.Option(
        min=1,
        help="Refuse images with more pixels than this; memory grows with it (12 bytes each).",
    ),
]
FastJpeg = Annotated[
    bool,
    typer.Option(
        "--fast-jpeg",
        help="Decode large JPEGs at reduced size: faster, with slightly different pixels.",
    ),
]

# ------------------------------------------------------------------ output

Out = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="File to write, one row per image (captions.jsonl); - for standard output. For "
        "shards, a folder or its URL (captions).",
    ),
]
Sidecar = Annotated[
    str | None,
    typer.Option(metavar=".txt", help="Also write photo.txt beside photo.jpg."),
]
Sheet = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Also write an HTML contact sheet."),
]
Checks = Annotated[
    bool | None,
    typer.Option(
        "--checks/--no-checks",
        help="Add checks to each row: words kept and added, refusals, loops. On by default for "
        "captioners that follow instructions.",
    ),
]
Embeddings = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Caption from these saved embeddings (.npy, .parquet) instead of the images.",
    ),
]
SaveEmbeddings = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also save the embeddings of the images (.npy, .parquet)."),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace existing captions."),
]
Update = Annotated[
    bool,
    typer.Option("--update", help="Caption again the images that changed, or whose alt-texts did."),
]
RetryErrors = Annotated[
    bool,
    typer.Option("--retry-errors", help="Try failed images again."),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the summary as one JSON line."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]

# ------------------------------------------------------------------ performance

BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Captions to generate at once (32; on a GPU up to 256)."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of processes (1; on Ray as many as fit). The captions are the same."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Compute threads per worker. By default the workers share all cores."),
]
SpeculationOption = Annotated[
    Speculation,
    typer.Option(
        metavar="auto|on|off", help="Speculative decoding: faster, and changes no caption."
    ),
]

# ------------------------------------------------------------------ shards

LayoutOption = Annotated[
    Layout,
    typer.Option(metavar="|".join(LAYOUTS), help="Layout of the shards; auto goes by their names."),
]
JoinOption = Annotated[
    str | None,
    typer.Option(
        "--join",
        metavar="FILE",
        help="Take alt-texts from this metadata file; {shard} stands for the shard's name.",
    ),
]
JoinOn = Annotated[
    str,
    typer.Option(metavar="KEY", help="Key to join its records on: key, url, sha256 or uid."),
]
SpoolOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for shards fetched from an object store."),
]
SpoolBytes = Annotated[
    int,
    typer.Option(min=1, help="Bytes that fetched shards may take up."),
]
OnlyMissing = Annotated[
    bool,
    typer.Option("--only-missing", help="Skip shards that are incomplete or have failed."),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option(
        metavar="local|ray",
        help="Where shards are captioned: in processes here, or by workers on a Ray cluster, one "
        "per GPU or per --threads cores.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ray cluster to use. Default: RAY_ADDRESS, or a new one on this machine.",
    ),
]


def refuse(why: str, options: Mapping[str, object]) -> None:
    """Raise typer.BadParameter for the first of the options that is given."""
    for name, value in options.items():
        if value not in (None, False):
            raise typer.BadParameter(why, param_hint=name)
