"""`altogether-rt scenes` and `altogether-rt scenes score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from altogether_rt.cli.output import Output
from altogether_rt.scenes.dataset import score_files, write_scenes

__all__ = ["scenes_command", "score_command"]

_LABELS = {
    "visual_facts_right": "visual facts right",
    "kind_right": "  kinds",
    "colour_right": "  colours",
    "count_right": "  counts",
    "size_right": "  sizes",
    "relation_right": "  relations",
    "background_right": "  backgrounds",
    "names_kept": "names of the alt-text kept",
    "wrong_corrected": "wrong facts corrected",
    "invented_with_empty_alt": "invented names, empty alt-text",
    "invented": "invented names, all",
}


def scenes_command(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder to write; must be new or empty.")
    ],
    num: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scenes.")] = 0,
    split: Annotated[
        Literal["train", "test"],
        typer.Option(help="Names in `test` scenes never occur in `train` ones, whatever the seed."),
    ] = "test",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Draw scenes: images, alts.jsonl (as from the web) and references.jsonl (the true facts)."""
    output = Output(as_json=as_json, quiet=quiet)
    with output.progress(num, "scenes") as progress:
        for _ in write_scenes(out, num, seed, split):
            progress.advance()
    data = {"folder": str(out), "scenes": num, "seed": seed, "split": split}
    output.result(data, f"{num} scenes in {out}, with alts.jsonl and references.jsonl")


def score_command(
    captions: Annotated[Path, typer.Argument(help="Rows with file_name and caption.")],
    references: Annotated[Path, typer.Argument(help="references.jsonl of the scenes folder.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON line.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Score captions of scenes: facts stated, names kept, wrong facts corrected, names invented."""
    output = Output(as_json=as_json, quiet=quiet)
    found = score_files(captions, references)
    scores = found.to_dict() | {"missing": found.num_missing, "unknown": found.num_unknown}
    if found.num_missing:
        output.note(
            f"{found.num_missing:,} of the {found.num_captions:,} scenes have no caption in "
            f"{captions}, which is scored as an empty one."
        )
    if found.num_unknown:
        output.note(
            f"{found.num_unknown:,} captions are of no scene in {references}: are they of another "
            "folder?"
        )
    rows = [
        (label, "–" if scores[key] is None else f"{scores[key]:.1f} %")
        for key, label in _LABELS.items()
    ]
    title = f"{scores['captions']} captions"
    output.result(scores, output.table(title, ("measure", "share"), rows))
