"""The option `--device`, the same for every command that has it."""

from __future__ import annotations

from typing import Annotated

import typer

from altogether_rt.errors import AltogetherError

__all__ = ["DeviceOption", "check_gpu"]


def _parse(text: str) -> str:
    from altogether_rt.machine.device import parse_device

    try:
        parse_device(text)
    except AltogetherError as error:
        raise typer.BadParameter(str(error)) from None
    return text


DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:N|tensorrt",
        callback=_parse,
        help="Where to run; auto is what the bundle was exported for or, for a name, whatever "
        "is fastest here.",
    ),
]


def check_gpu(device: str) -> None:
    """Raise AltogetherError, before anything slow, if the GPU that was asked for is missing."""
    from altogether_rt.machine.device import find_gpu, parse_device

    wanted = parse_device(device)
    if wanted.on_gpu:
        find_gpu(wanted)
