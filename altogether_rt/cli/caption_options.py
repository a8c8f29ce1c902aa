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
        help="Folder of images, or one image; or shards: tars and Parquet files, folders, patterns "
        "and URLs of them.",
    ),
]
BundleName = Annotated[
    str,
    typer.Option(
        help="Folder of a bundle or a checkpoint, or a name: `starter`, one that altogether-rt "
        "models lists, or the id of a captioner on the hub."
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Output file, one row per image (captions.jsonl); - for standard output. Of shards a "
        "folder, or its URL (captions).",
    ),
]
Recursive = Annotated[bool, typer.Option(help="Go into subfolders.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Captions generated at once (32).")]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Maximum caption length in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="Temperature; 0 is greedy.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Nucleus sampling probability.")]
Style = Annotated[
    CaptionStyle,
    typer.Option(
        metavar="caption|alt",
        help="alt: the alt-text of a page, one sentence of at most 125 characters.",
    ),
]
PromptText = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="TEXT",
        help="What to ask a captioner that follows instructions, or @FILE with it; {alt} is where "
        "the alt-text stands.",
    ),
]
LoopRepeats = Annotated[
    int | None,
    typer.Option(
        min=0, help="A passage that stands so many times in a row ends a caption; 0: none does."
    ),
]
Checks = Annotated[
    bool | None,
    typer.Option(
        "--checks/--no-checks",
        help="Say in each row what came of its caption: words kept and added, refusals, loops; on "
        "for captioners that follow instructions.",
    ),
]
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
    int | None,
    typer.Option(
        min=1,
        help="Number of processes (1; on Ray as many as fit); the captions are the same.",
    ),
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

# Of shards

LayoutOption = Annotated[
    Layout,
    typer.Option(metavar="|".join(LAYOUTS), help="What shards are; else their names tell."),
]
JoinOption = Annotated[
    str | None,
    typer.Option(
        "--join",
        metavar="FILE",
        help="Alt-texts of shards from this file of metadata; {shard} is the shard's name.",
    ),
]
JoinOn = Annotated[
    str, typer.Option(metavar="KEY", help="What its records are joined on: key, url, sha256, uid.")
]
SpoolOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for shards that are fetched from an object store."),
]
SpoolBytes = Annotated[int, typer.Option(min=1, help="Bytes that fetched shards may take.")]
OnlyMissing = Annotated[
    bool,
    typer.Option("--only-missing", help="Leave shards alone that are incomplete or have failed."),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option(
        metavar="local|ray",
        help="Who captions shards: processes here, or workers on a Ray cluster, one per GPU or per "
        "--threads cores.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The Ray cluster; else RAY_ADDRESS, or one that is started on this machine.",
    ),
]


def refuse(why: str, options: Mapping[str, object]) -> None:
    """Raise typer.BadParameter for the first of the options that is given."""
    for name, value in options.items():
        if value not in (None, False):
            raise typer.BadParameter(why, param_hint=name)
