"""`altogether-rt export-captions`: the captions of a sharded run, for those who train with them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from altogether_rt.cli.commands.shards.report import listed
from altogether_rt.cli.output import Output
from altogether_rt.data.problems import counted
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.draw import MixDraw
from altogether_rt.publishing.inputs import find_shards
from altogether_rt.publishing.layouts import Layout, MetaClipLayout
from altogether_rt.publishing.publish import ExportSummary, export_rows, export_shards
from altogether_rt.publishing.run import open_run
from altogether_rt.publishing.storage import divided, stamp_of
from altogether_rt.publishing.tables import ParquetLayout
from altogether_rt.publishing.tar_layout import TarLayout
from altogether_rt.publishing.tars import IntoJson, IntoText

__all__ = ["export_captions_command"]

#: The share with which the paper trains CLIP.
_DEFAULT_RATIO = 0.15

_FormatName = Literal["metaclip", "webdataset", "parquet", "jsonl"]

#: Option → the formats, and the member of a tar, that it belongs to.
_BELONGS_TO = {
    "--form": ("metaclip", ""),
    "--shards": ("webdataset or parquet", ""),
    "--into": ("webdataset", ""),
    "--json-key": ("webdataset", "json"),
    "--ratio": ("webdataset", "txt"),
    "--seed": ("webdataset", "txt"),
    "--epoch": ("webdataset", "txt"),
}


def export_captions_command(
    captions: Annotated[
        str,
        typer.Argument(
            metavar="CAPTIONS",
            help="Output of a sharded run, as a folder or a URL, or a file such as captions.jsonl.",
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(metavar="OUT", help="Folder or URL to write to; jsonl: the file to write."),
    ],
    layout: Annotated[
        _FormatName,
        typer.Option(
            "--format",
            help="metaclip: {id%100}/{id}.json with captions by uuid. webdataset: the tars of "
            "--shards with captions added. parquet: a table per shard, for "
            "datasets.load_dataset. jsonl: one file of rows, as `caption` writes them.",
        ),
    ],
    form: Annotated[
        Literal["plain", "nested"] | None,
        typer.Option(
            help="metaclip: {uuid: caption}, which its training reads, or {uuid: {altogether: "
            "caption}}. Default: plain."
        ),
    ] = None,
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="SHARDS",
            help="The shards that were captioned, named as they were then: a folder, pattern "
            "or URL. webdataset: the tars to add captions to. parquet: the images are "
            "written as well.",
        ),
    ] = None,
    into: Annotated[
        Literal["json", "txt"] | None,
        typer.Option(
            help="webdataset: where captions go: into a key of each sample's .json, beside the"
            " old text, or into its .txt for a share of the samples. Default: json."
        ),
    ] = None,
    json_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="With --into json: the key. Default: altogether."),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="With --into txt: probability that a text is the caption. Default: 0.15.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="With --into txt: the same seed gives the same choices (0).")
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Option(min=0, help="With --into txt: a different epoch draws again (0)."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Rewrite what is already there.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Write the captions of a sharded run in the layout that training code reads.

    Shards are written one by one, each completely or not at all; an export that was stopped
    continues when the same command is given again. Samples without a caption are counted: metaclip
    and parquet leave them out, webdataset leaves them as they were, jsonl has their errors.
    """
    given = {
        "--form": form,
        "--shards": shards,
        "--into": into,
        "--json-key": json_key,
        "--ratio": ratio,
        "--seed": seed,
        "--epoch": epoch,
    }
    _check_options(layout, into or "json", given)
    if out == "-":
        what = "file" if layout == "jsonl" else "folder"
        raise AltogetherError(f"an export does not go to standard output: name a {what}.")
    output = Output(as_json=as_json, quiet=quiet)
    run = open_run(captions)
    try:
        with Spool() as spool, output.progress(len(run.names), "shards") as progress:
            if layout == "jsonl":
                if not overwrite and stamp_of(out) is not None:
                    raise AltogetherError(
                        f"{out} exists already: give another file, or --overwrite."
                    )
                summary = export_rows(run, *divided(out), spool, progress.advance)
            else:
                chosen = _layout(layout, given, spool, run.image_keys)
                summary = export_shards(
                    run,
                    open_store(out),
                    chosen,
                    spool,
                    overwrite=overwrite,
                    advance=progress.advance,
                )
    except OSError as error:
        raise AltogetherError(
            f"{out} cannot be written ({error.strerror or error}): finished shards are kept."
        ) from error
    except KeyboardInterrupt:
        output.error("Interrupted: finished shards are kept; give the same command to go on.")
        raise typer.Exit(130) from None
    output.result({"out": out, "format": layout, **summary.to_dict()}, _sentences(out, summary))
    _check_complete(summary)


def _check_options(layout: str, into: str, given: dict[str, Any]) -> None:
    for option, value in given.items():
        format_name, member = _BELONGS_TO[option]
        if value is not None and layout not in format_name.split(" or "):
            raise AltogetherError(
                f"{option} is an option of --format {format_name}: remove it, or use that format."
            )
        if value is not None and member not in ("", into):
            raise AltogetherError(
                f"{option} is an option of --into {member}: remove it, or add --into {member}."
            )
    if layout == "webdataset" and given["--shards"] is None:
        raise AltogetherError(
            "--format webdataset needs the tars that were captioned: name their folder with "
            "--shards."
        )


def _layout(name: str, given: dict[str, Any], spool: Spool, image_keys: tuple[str, ...]) -> Layout:
    if name == "metaclip":
        return MetaClipLayout(given["--form"] or "plain")
    if name == "parquet":
        where = given["--shards"]
        return ParquetLayout(
            None if where is None else find_shards(where, spool, image_keys=image_keys)
        )
    shards = find_shards(given["--shards"], spool, "webdataset")
    if given["--into"] == "txt":
        ratio = _DEFAULT_RATIO if given["--ratio"] is None else given["--ratio"]
        draw = MixDraw(ratio, given["--seed"] or 0)
        return TarLayout(shards, IntoText(draw, given["--epoch"] or 0))
    return TarLayout(shards, IntoJson(given["--json-key"] or "altogether"))


#: What the summary says of each count that is not 0.
_COUNTED = {
    "failed": "images that could not be captioned",
    "missing": "rows without a caption",
    "alts": "texts that stay the alt-text",
    "without_text": "samples without any text, which training code leaves out",
    "without_sample": "captions whose sample is not in its shard",
    "without_row": "samples without a row, left as they are",
    "repeated": "records left out because their key was there before",
    "json_unusable": "samples whose .json is not an object, left as they are",
    "dotted_keys": "captioned samples with a dot in their key, which webdataset cuts there",
    "unreadable": "records that cannot be read",
}


def _sentences(out: str, summary: ExportSummary) -> list[str]:
    """The summary as text."""
    counts = summary.counts.to_dict()
    before = f", {summary.shards_skipped:,} of them before" if summary.shards_skipped else ""
    shards = "shard" if summary.shards == 1 else "shards"
    lines = [f"{out}: {counts['captions']:,} captions in {summary.shards:,} {shards}{before}."]
    lines += [f"{what}: {counts[name]:,}" for name, what in _COUNTED.items() if counts[name]]
    return lines


def _check_complete(summary: ExportSummary) -> None:
    """Raises AltogetherError if something is lacking; what is there is kept."""
    lacking = []
    if summary.failed:
        shards = counted(summary.failed.count, "shard", "shards")
        lacking.append(f"{shards} could not be written ({listed(summary.failed)})")
    if summary.notes:
        were = counted(summary.notes.count, "shard was", "shards were")
        lacking.append(f"{were} read only in part ({listed(summary.notes)})")
    if summary.unfinished:
        are = counted(summary.unfinished, "shard of the run is", "shards of the run are")
        lacking.append(f"{are} not finished: caption them, then give this command again")
    if lacking:
        raise AltogetherError(f"the export is incomplete: {'; '.join(lacking)}.")
