"""`altogether-rt models`: the captioners that have a name, and what of them is here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.cli.output import Output, format_bytes
from altogether_rt.errors import AltogetherError
from altogether_rt.hub.cache import CachedModel, cached_models, hub_root, remove_cached
from altogether_rt.hub.catalogue import CatalogueEntry, read_catalogue
from altogether_rt.hub.names import find_name
from altogether_rt.hub.target import choose_target
from altogether_rt.runtime.cpu.prepared import remove_prepared

__all__ = ["models_command"]

_COLUMNS = ("name", "good for", "download", "licence", "reads alt-text", "tested on", "here")


def models_command(
    remove: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Remove this captioner's files from this machine."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """List the captioners that --bundle, --ckpt and `import` know by name.

    Ids of captioners on the hub, owner/name, are names too. Nothing is downloaded unless you agree
    when asked, pass --download, or run `bundle pull`. The last column says what
    is on this machine: the targets of bundles, `torch` for a checkpoint, and the bytes on disk.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if remove is not None:
        _remove(remove, output)
        return
    catalogue, here, target = read_catalogue(), cached_models(), choose_target()
    known = {entry.hub_id for entry in catalogue.values()}
    others = [model for model in here if model.hub_id not in known]
    data = {
        "cache": str(hub_root()),
        "models": [_entry(entry, here) for entry in catalogue.values()],
        "others": [_here(model) for model in others],
        "by_name": {"target": target.name, "why": target.why},
    }
    output.show(
        output.table("", _COLUMNS, (tuple(_row(entry, here)) for entry in catalogue.values()))
    )
    if others:
        rows = (
            (model.hub_id, model.revision[:12], ", ".join(_made(model)), _size(model))
            for model in others
        )
        columns = ("also on this machine", "revision", "made of it", "on the disk")
        output.show(output.table("", columns, rows))
    output.show(f"On this machine a name means {target}.")
    output.result(data, f"They are kept in {hub_root()}; models --remove NAME removes one.")


def _entry(entry: CatalogueEntry, here: Sequence[CachedModel]) -> dict[str, Any]:
    found = [_here(model) for model in here if model.hub_id == entry.hub_id]
    return {**asdict(entry), "here": found}


def _here(model: CachedModel) -> dict[str, Any]:
    return {
        "hub_id": model.hub_id,
        "revision": model.revision,
        "downloaded": model.download() is not None,
        "bundles": model.bundles(),
        "checkpoints": model.checkpoints(),
        "bytes": model.num_bytes(),
    }


def _row(entry: CatalogueEntry, here: Sequence[CachedModel]) -> Iterator[str]:
    yield entry.name
    yield entry.good_for
    yield format_bytes(entry.bytes) if entry.bytes else "none"
    yield entry.licence
    yield entry.reads_alt
    yield entry.tested
    if entry.hub_id is None:
        yield "in the package"
        return
    found = [model for model in here if model.hub_id == entry.hub_id]
    yield "; ".join(", ".join([*_made(model), _size(model)]) for model in found) or "no"


def _made(model: CachedModel) -> list[str]:
    return [*model.bundles(), *model.checkpoints()]


def _size(model: CachedModel) -> str:
    size = format_bytes(model.num_bytes())
    return size if model.is_whole else f"{size}, unfinished"


def _remove(name: str, output: Output) -> None:
    found = find_name(name)
    here = {model.hub_id for model in cached_models()}
    if found is None or found.hub_id not in here:
        raise AltogetherError(
            f"nothing of {name} is on this machine: see altogether-rt models for what is."
        )
    for model in cached_models():
        for bundle in model.bundles() if model.hub_id == found.hub_id else ():
            remove_prepared(Bundle.load(model.folder / bundle, verify_hashes=False))
    freed = remove_cached(found.hub_id)
    output.result(
        {"removed": found.hub_id, "bytes": freed}, f"{found.hub_id}: {format_bytes(freed)} freed"
    )
