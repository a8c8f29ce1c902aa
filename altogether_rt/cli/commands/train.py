"""`altogether-rt train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.cli.output import Output

__all__ = ["train_command"]


def train_command(
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    config: Annotated[
        str, typer.Option(help="A training recipe: `starter`, or the path of a .toml file.")
    ] = "starter",
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from: its encoder, weights, tokenizer.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Train on this jsonl (file_name, alts, rounds) instead of the recipe's."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Train a captioner: encoder (scenes only), pretraining, fine-tuning, as the recipe says."""
    from altogether_rt.train.recipe import load_recipe
    from altogether_rt.train.run import train

    output = Output(quiet=quiet)
    train(
        load_recipe(config),
        out,
        init=init,
        data=data,
        resume=resume,
        threads=threads,
        say=output.note,
    )
    output.show(f"checkpoint in {out}: altogether-rt export --ckpt {out}")
