"""`caption` of a dataset in shards: its arguments as the commands of shards take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from altogether_rt.cli.caption_options import refuse
from altogether_rt.cli.commands.caption.arguments import CaptionArguments
from altogether_rt.cli.commands.shards.sharded import ShardArguments
from altogether_rt.data.sources.sampling import KeyShare

__all__ = ["shard_arguments"]


def shard_arguments(
    given: CaptionArguments, params: Mapping[str, Any], share: KeyShare | None
) -> ShardArguments:
    """The arguments for shards. Raises typer.BadParameter for an option of folders.

    params: as `CaptionArguments.read_params` gives them.
    """
    _refuse_options_of_folders(given)
    if given.out == "-":
        raise typer.BadParameter(
            "shards have a file of captions each: name a folder.", param_hint="--out"
        )
    return ShardArguments(
        bundle=given.bundle,
        device=given.device,
        dtype=given.dtype,
        kv_cache=given.kv_cache,
        params=params,
        workers=given.workers,
        execution={
            **given.execution(),
            "engine": given.engine,
            "ray_address": given.ray_address,
        },
        out=given.out or "captions",
        layout=given.layout,
        image_key=given.image_key,
        alt_key=given.alt_key,
        join=given.join,
        join_on=given.join_on,
        share=share,
        spool=given.spool,
        spool_bytes=given.spool_bytes,
        max_pixels=given.max_pixels,
        fast_jpeg=given.fast_jpeg,
        overwrite=given.overwrite,
        retry_errors=given.retry_errors,
        hygiene=given.hygiene(),
        checks=given.checks,
        allow_download=given.allow_download,
        download=given.download,
    )


def _refuse_options_of_folders(given: CaptionArguments) -> None:
    several = len(given.inputs) > 1
    refuse(
        "it is for one folder of images, and several inputs are shards."
        if several
        else "it is for folders of images, and these are shards.",
        {
            "--alt": given.alt,
            "--alt-beside": given.alt_beside,
            "--alt-embedded": given.alt_embedded,
            "--write-alt": given.write_alt,
            "--drop-boilerplate": given.drop_boilerplate,
            "--strict": given.strict,
            "--sidecar": given.sidecar,
            "--sheet": given.sheet,
            "--embeddings": given.embeddings,
            "--save-embeddings": given.save_embeddings,
            "--update": given.update,
        },
    )
