"""The options of commands that load a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from altogether_rt.machine.device import Dtype, KVCacheType

__all__ = ["AllowDownload", "DtypeOption", "KVCacheOption"]

AllowDownload = Annotated[
    bool,
    typer.Option(
        "--allow-download",
        help="Let a checkpoint download the encoder that it names, and open files outside of its "
        "folder. Only for checkpoints from people you trust.",
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        metavar="auto|float32|float16|bfloat16|float8|float8-all",
        help="What a checkpoint is computed in; auto: float16 on a GPU. float8: products of "
        "encoder, mapper and prompts in fp8, on GPUs from compute capability 8.9 on; float8-all: "
        "those of decode steps too.",
    ),
]
KVCacheOption = Annotated[
    KVCacheType,
    typer.Option(
        "--kv-cache",
        metavar="auto|int8|float8",
        help="How a checkpoint on a GPU keeps keys and values; auto: as they are computed. int8 is "
        "half of float16, and nearer to it than float8.",
    ),
]
