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
        help="Let a checkpoint download the encoder it names and open files outside its "
        "folder. Only for checkpoints you trust.",
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        metavar="auto|float32|float16|bfloat16|float8|float8-all",
        help="Data type to run a checkpoint in; auto is float16 on a GPU. float8: fp8 matrix "
        "products in encoder, mapper and prompts (compute capability 8.9 or newer); "
        "float8-all: in decode steps as well.",
    ),
]
KVCacheOption = Annotated[
    KVCacheType,
    typer.Option(
        "--kv-cache",
        metavar="auto|int8|float8",
        help="Data type of the KV cache for a checkpoint on a GPU; auto is that of the "
        "computation. int8 takes half the memory of float16 and is more accurate than "
        "float8.",
    ),
]
