"""`altogether-rt train`: run a training recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.cli.checkpoint import AllowDownload
from altogether_rt.cli.output import Output

__all__ = ["train_command"]

DEFAULT_RECIPE = "starter"


def train_command(
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write; must not exist.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="The training recipe: `starter`, or the path of a .toml file.",
            show_default=DEFAULT_RECIPE,
        ),
    ] = None,
    config: Annotated[
        str | None, typer.Option(hidden=True, help="Former name of --recipe.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to start from (its encoder, weights and tokenizer), or the folder of "
            "a run."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Train on this JSON Lines file (file_name, alts, rounds) instead of the recipe's "
            "data.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = False,
    holdout: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.99,
            metavar="SHARE",
            help="Share of the images, such as 0.05, to measure on and never train on.",
        ),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out rows and images that cannot be used."),
    ] = False,
    allow_download: AllowDownload = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default what is measured fastest.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Train a captioner by a recipe: encoder (scenes only), pretraining, fine-tuning."""
    from altogether_rt.train.recipe import load_recipe
    from altogether_rt.train.run import train

    if recipe is not None and config is not None:
        raise typer.BadParameter("this is the former name of --recipe: give --recipe alone.")
    output = Output(quiet=quiet)
    wanted = load_recipe(recipe or config or DEFAULT_RECIPE)
    train(
        wanted if holdout is None else dataclasses.replace(wanted, holdout=holdout),
        out,
        init=init,
        data=data,
        resume=resume,
        skip_bad=skip_bad,
        threads=threads,
        allow_download=allow_download,
        say=output.note,
    )
    output.show(f"checkpoint in {out}: altogether-rt export --ckpt {out}")
