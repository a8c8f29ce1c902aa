"""Captioners that are given by name: asked about, downloaded and made ready where they are not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altogether_rt.cli.output import Output, format_bytes, format_duration
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.names import HubName, find_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from altogether_rt.hub.obtain import Steps

__all__ = ["Download", "checkpoint_by_name", "ensure_captioner", "steps"]

Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Download a captioner given by name without asking, if it is not on this machine.",
    ),
]

_MEGABYTE = 1_000_000
#: Download, bundle and prepared bundle, of the download's bytes: SmolVLM-256M's, 513 MB, takes
#: 1.27 GB; weights that are published in float32 take less. A checkpoint is in float32: twice.
_ON_DISK, _ON_DISK_AS_CHECKPOINT = 2.5, 3.0


def ensure_captioner(
    captioner: str | Path,
    output: Output,
    *,
    device: str = "auto",
    download: bool = False,
    to_run: bool = True,
) -> None:
    """Make sure that a captioner given by name is on this machine, as what `device` runs fastest.

    download: without asking. to_run: whether it must be something that runs here. Nothing happens
    for a path, `starter`, and what is here already. Raises AltogetherError if it is not to be
    downloaded, or cannot be.
    """
    from altogether_rt.hub.cache import find_cached
    from altogether_rt.hub.lookup import cached_captioner

    name = find_name(captioner)
    if name is None:
        return
    from altogether_rt.hub.target import choose_target

    target = choose_target(device)
    if cached_captioner(name, target.name) is not None:
        return
    if to_run and target.problem is not None:  # before a gigabyte is fetched
        raise AltogetherError(f"{name.name} cannot be run on {device} here: {target.problem}.")
    from altogether_rt.hub.obtain import check_extras, obtain_captioner

    cached = find_cached(name)
    if cached is None or not cached.is_whole:
        if name.entry is not None:
            check_extras(name, target.name)
        _ask(name, download, device)
    with _interruptible():
        obtain_captioner(name, target.name, steps(output))


def checkpoint_by_name(
    source: str | Path, output: Output, *, download: bool = False
) -> AbstractContextManager[Path]:
    """A context manager: `source` itself, or a temporary checkpoint if it is the name of a
    captioner.

    download: without asking. Raises AltogetherError as `ensure_captioner` does.
    """
    from altogether_rt.hub.cache import find_cached

    name = find_name(source)
    if name is None:
        return nullcontext(Path(source))
    from altogether_rt.hub.obtain import check_extras, obtain_checkpoint

    cached = find_cached(name)
    if cached is None or not cached.is_whole:
        check_extras(name)
        _ask(name, download)
    return obtain_checkpoint(name, steps(output))


def steps(output: Output) -> Steps:
    """Tells of the steps as notes, and of downloads as progress in megabytes."""
    from altogether_rt.hub.obtain import Steps

    start = time.monotonic()

    def report(message: str) -> None:
        output.note(f"[{format_duration(time.monotonic() - start)}] {message}")

    @contextmanager
    def progress(total: int) -> Iterator[Callable[[int, str], None]]:
        report(f"downloading {format_bytes(total)}")
        with output.progress(max(1, round(total / _MEGABYTE)), "MB") as monitor:
            done = 0

            def advance(count: int, file: str) -> None:
                nonlocal done
                done += count
                monitor.advance(done // _MEGABYTE - monitor.done, note=file)

            yield advance

    return Steps(report, progress)


@contextmanager
def _interruptible() -> Iterator[None]:
    """On Ctrl-C, says what is kept of a captioner that is being made ready."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Interrupted: what was downloaded is kept; give the same command to go on."
        ) from None


def _ask(name: HubName, download: bool, device: str = "auto") -> None:
    """Raises AltogetherError unless the user wants the download. device: where it is to run.

    Only entries of the catalogue are asked about: a mistyped path must not become a request.
    """
    from altogether_rt.hub.lookup import not_here
    from altogether_rt.hub.target import CHECKPOINT, choose_target

    if download:
        return
    entry = name.entry
    if entry is None or not _on_terminal():
        raise not_here(name, device, ", or pass --download")
    product, on_disk = "bundle", _ON_DISK
    if choose_target(device).name == CHECKPOINT:
        product, on_disk = "checkpoint", _ON_DISK_AS_CHECKPOINT
    question = (
        f"{name.name} is not on this machine. Download {entry.bytes / 1e9:.2f} GB from the hub "
        f"({entry.hub_id}, licence {entry.licence}) and make a {product} of it? All of it takes up "
        f"to {on_disk * entry.bytes / 1e9:.1f} GB on the disk."
    )
    if not typer.confirm(question, err=True):
        raise AltogetherError(f"{name.name} was not downloaded: choose another captioner.")


def _on_terminal() -> bool:
    streams = (sys.stdin, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams)
