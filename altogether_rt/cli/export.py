"""`altogether-rt export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from altogether_rt.cli.output import Output, format_bytes, format_duration
from altogether_rt.export.recipes import (
    DEFAULT_TARGET,
    STAGES,
    find_recipe,
    target_names,
)

__all__ = ["export_command"]


def export_command(
    ckpt: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint's folder; or a bundle for the CPU, or `starter`, which ships with "
            "the package."
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="What to export for.")] = DEFAULT_TARGET,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write; default: CKPT's name and the target, here."),
    ] = None,
    calibration_images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to compare with torch on; default: drawn scenes."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle.")] = False,
    list_targets: Annotated[
        bool, typer.Option("--list-targets", help="Show the targets and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Export a checkpoint for a target, and compare every graph with the torch reference.

    If a graph differs by more than the target's recipe allows, no bundle is written.
    """
    output = Output(as_json=as_json, quiet=quiet)
    if list_targets:
        _list_targets(output)
        return
    if ckpt is None:
        raise typer.BadParameter("give the folder of a checkpoint.", param_hint="--ckpt")
    recipe = find_recipe(target)
    out = out or Path(f"{ckpt.resolve().name}-{target}")
    from altogether_rt.bundle import BundleWriter
    from altogether_rt.export.from_checkpoint import export_checkpoint
    from altogether_rt.importing.bundle import checkpoint_folder

    BundleWriter(out, overwrite=overwrite)  # fails now if `out` cannot be used, not in ten minutes
    start = time.monotonic()

    def report(message: str) -> None:
        output.note(f"[{format_duration(time.monotonic() - start)}] {message}")

    with checkpoint_folder(ckpt, report) as folder:
        bundle = export_checkpoint(
            folder,
            recipe,
            out,
            calibration_images=calibration_images,
            overwrite=overwrite,
            report=report,
        )
    size = sum(spec.bytes for spec in bundle.manifest.files.values())
    parity = bundle.manifest.parity
    rows = [
        (stage, f"{parity[stage]['mean_cosine']:.6f}", f"{parity[stage]['worst_cosine']:.6f}")
        for stage in STAGES
        if stage in parity
    ]
    output.show(output.table("cosine to the checkpoint", ("stage", "mean", "worst row"), rows))
    output.result(
        {
            "bundle": str(out),
            "bundle_id": bundle.bundle_id,
            "target": target,
            "bytes": size,
            "seconds": round(time.monotonic() - start, 1),
            "parity": dict(parity),
        },
        f"{out}  {format_bytes(size)}  bundle {bundle.bundle_id}",
    )


def _list_targets(output: Output) -> None:
    recipes = {name: find_recipe(name).target for name in target_names()}
    rows = [(name, spec.precision, spec.description) for name, spec in recipes.items()]
    output.result(
        {"targets": {name: vars(spec) for name, spec in recipes.items()}},
        output.table("", ("target", "precision", "for"), rows),
    )
