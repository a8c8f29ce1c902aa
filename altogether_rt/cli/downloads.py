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

__all__ = ["Download", "checkpoint_by_name", "ensure_bundle", "steps"]

Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Download a captioner that is given by name and is not on this machine, unasked.",
    ),
]

_MEGABYTE = 1_000_000
#: Download, bundle and prepared bundle, of the download's bytes: SmolVLM-256M's, 513 MB, takes
#: 1.27 GB; weights that are published in float32 take less.
_ON_DISK = 2.5


def ensure_bundle(
    captioner: str | Path, output: Output, *, device: str = "auto", download: bool = False
) -> None:
    """Make sure that a captioner given by name has a bundle on this machine.

    download: without asking. Nothing happens for a path, `starter`, and what is here already.
    Raises AltogetherError if it is not to be downloaded, or cannot be.
    """
    from altogether_rt.hub.cache import find_cached
    from altogether_rt.hub.lookup import cached_bundle, target_for

    name = find_name(captioner)
    if name is None or cached_bundle(name, device) is not None:
        return
    from altogether_rt.hub.obtain import check_extras, obtain_bundle

    cached = find_cached(name)
    if cached is None or not cached.is_whole:
        if name.entry is not None:
            check_extras(name)  # before a gigabyte is fetched that could not be used
        _ask(name, download)
    with _interruptible():
        obtain_bundle(name, target_for(device), steps(output))


def checkpoint_by_name(
    source: str | Path, output: Output, *, download: bool = False
) -> AbstractContextManager[Path]:
    """A context manager: `source` itself, or a temporary checkpoint if it is the name of a
    captioner.

    download: without asking. Raises AltogetherError as `ensure_bundle` does.
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


def _ask(name: HubName, download: bool) -> None:
    """Raises AltogetherError unless the user wants the download.

    Only entries of the catalogue are asked about: a mistyped path must not become a request.
    """
    from altogether_rt.hub.lookup import not_here

    if download:
        return
    entry = name.entry
    if entry is None or not _on_terminal():
        raise not_here(name, ", or pass --download")
    question = (
        f"{name.name} is not on this machine. Download {entry.bytes / 1e9:.2f} GB from the hub "
        f"({entry.hub_id}, licence {entry.licence}) and make a bundle of it? All of it takes up to "
        f"{_ON_DISK * entry.bytes / 1e9:.1f} GB on the disk."
    )
    if not typer.confirm(question, err=True):
        raise AltogetherError(f"{name.name} was not downloaded: choose another captioner.")


def _on_terminal() -> bool:
    streams = (sys.stdin, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams)
