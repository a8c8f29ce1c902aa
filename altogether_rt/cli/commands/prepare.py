"""`altogether-rt prepare`: makes a bundle open faster on this machine, shared by its workers."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from altogether_rt.cli.output import Output, format_bytes

__all__ = ["prepare_command"]


def prepare_command(
    bundle: Annotated[
        str,
        typer.Argument(
            help="Folder of a bundle, or a name: `starter`, or one that is on this machine."
        ),
    ] = "starter",
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what was prepared for this bundle.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False,
) -> None:
    """Store a bundle's weights in your cache folder, in the layout that this machine's kernels use.

    They take up about twice the bundle's size. From then on every command opens the bundle in a
    fraction of the time, and worker processes share one copy in memory. Captions stay the same.
    """
    from altogether_rt.artifacts.bundle import Bundle
    from altogether_rt.artifacts.manifest import GRAPH_NAMES
    from altogether_rt.hub.lookup import locate_bundle
    from altogether_rt.runtime.cpu.prepared import prepare, remove_prepared
    from altogether_rt.runtime.select import open_runtime

    output = Output(as_json=as_json)
    folder = locate_bundle(bundle, "cpu")
    if remove:
        folders = remove_prepared(Bundle.load(folder, verify_hashes=False))
        human = [f"removed {folder}" for folder in folders] or "nothing was prepared for it"
        output.result({"removed": [str(folder) for folder in folders]}, human)
        return
    opened = Bundle.load(folder)
    with output.progress(len(GRAPH_NAMES), "graphs") as progress:
        prepared = prepare(opened, lambda name: progress.advance(note=name))
    start = time.perf_counter()
    open_runtime(opened, num_slots=1).close()
    load_s = time.perf_counter() - start
    size = format_bytes(prepared.bytes)
    data = {"path": str(prepared.path), "bytes": prepared.bytes, "load_s": round(load_s, 3)}
    output.result(data, f"{prepared.path}  {size}, opens in {load_s:.2f} s")
