"""The command: whether its input is a folder of images or a dataset in shards, and who does it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import typer

from altogether_rt.cli.arguments import takes
from altogether_rt.cli.commands.caption.arguments import PANELS, CaptionArguments
from altogether_rt.cli.run_output import INTERRUPTED, RunOutput, open_run_output
from altogether_rt.data.shards.listing import is_sharded

__all__ = ["caption_command"]


@takes(CaptionArguments, panels=PANELS)
def caption_command(context: typer.Context, arguments: CaptionArguments) -> None:
    """Caption a folder of images, or a dataset in shards, using their alt-texts.

    Every image yields one row: its caption, or the reason there is none. Run the same command again
    to continue a run that was stopped; existing captions are kept. Of shards, each gets a Parquet
    file in the folder --out; the exit code is 3 if some lack samples, 1 if some failed.
    """
    if "" in arguments.inputs:  # a variable of the shell that is not set
        raise typer.BadParameter(
            "it is empty: name a folder, an image or shards.", param_hint="INPUT"
        )
    reporting = arguments.reporting()
    share, params = arguments.share(), arguments.read_params()

    def open_output(*used: Path | None) -> AbstractContextManager[RunOutput]:
        return open_run_output(
            "caption",
            context.params,
            reporting,
            used,
            as_json=arguments.as_json,
            quiet=arguments.quiet,
            interrupted=INTERRUPTED,
        )

    # Each is imported only when it is wanted: help, and a mistake in an option, come at once.
    if is_sharded(arguments.inputs, arguments.layout):
        from altogether_rt.cli.commands.caption.shards import shard_arguments
        from altogether_rt.cli.commands.shards.sharded import caption_sharded

        of_shards = shard_arguments(arguments, params, share)
        with open_output() as run:
            caption_sharded(
                arguments.inputs,
                of_shards,
                run,
                limit=arguments.limit,
                only_missing=arguments.only_missing,
                dry_run=arguments.dry_run,
            )
        return
    from altogether_rt.cli.commands.caption.folder import folder_job, run_folder_job, used_files

    job = folder_job(arguments, share)
    with open_output(*used_files(job, arguments)) as run:
        run_folder_job(job, arguments, params, run)
