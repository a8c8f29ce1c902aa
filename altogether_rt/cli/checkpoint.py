"""The option of every command that loads a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AllowDownload"]

AllowDownload = Annotated[
    bool,
    typer.Option(
        "--allow-download",
        help="Let a checkpoint download the encoder that it names, and open files outside of its "
        "folder. Only for checkpoints from people you trust.",
    ),
]
