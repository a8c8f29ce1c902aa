"""`altogether-rt export`: export a checkpoint to a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altogether_rt.cli.arguments import takes
from altogether_rt.cli.checkpoint import AllowDownload
from altogether_rt.cli.downloads import Download, checkpoint_by_name
from altogether_rt.cli.output import Output, format_bytes, format_duration
from altogether_rt.cli.tables.parity import parity_table
from altogether_rt.errors import ConfigError
from altogether_rt.export.recipes import (
    DEFAULT_TARGET,
    Recipe,
    find_recipe,
    target_names,
)

if TYPE_CHECKING:
    from altogether_rt.artifacts.bundle import Bundle
    from altogether_rt.export.bundling import CompileEngines

__all__ = ["export_command"]

FIRST_SM_WITH_FP8 = 89


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """The options, in the order of the help."""

    ckpt: Annotated[
        Path | None,
        typer.Option(
            help="What to export: the folder of a checkpoint; a CPU bundle, such as `starter`;"
            " the folder of a training run, OUT.training, for its last saved state; a "
            "name (see models); or an id on the hub."
        ),
    ] = None
    target: Annotated[str, typer.Option(help="Target to export for (--list-targets).")] = (
        DEFAULT_TARGET
    )
    out: Annotated[
        Path | None,
        typer.Option(help="Bundle folder to write. Default: ./CKPT-TARGET."),
    ] = None
    calibration_images: Annotated[
        Path | None,
        typer.Option(
            help="Images for calibration and for the comparison with PyTorch. Default: drawn "
            "scenes."
        ),
    ] = None
    calibration_alts: Annotated[
        Path | None,
        typer.Option(
            help="Alt-texts of those images, in a file that `caption --alt` accepts. Default: "
            "their file names, and typical texts."
        ),
    ] = None
    sm: Annotated[
        str,
        typer.Option(
            metavar="SM,…",
            help="TensorRT targets: compile engines for these compute capabilities (89 means 8.9).",
        ),
    ] = ""
    timing_cache: Annotated[
        Path | None, typer.Option(help="TensorRT timing cache to read and write; needs a GPU.")
    ] = None
    allow_download: AllowDownload = False
    download: Download = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = (
        False
    )
    list_targets: Annotated[
        bool, typer.Option("--list-targets", help="List the targets and exit.")
    ] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line instead of text.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False

    def checkpoint(self) -> Path:
        """What is to be exported. Raises typer.BadParameter for options that need another."""
        if self.ckpt is None:
            raise typer.BadParameter(
                "give the folder of a checkpoint or a bundle.", param_hint="--ckpt"
            )
        if self.calibration_alts is not None and self.calibration_images is None:
            raise typer.BadParameter(
                "give the folder of their images too (--calibration-images).",
                param_hint="--calibration-alts",
            )
        return self.ckpt


@takes(ExportArguments)
def export_command(context: typer.Context, arguments: ExportArguments) -> None:
    """Export a checkpoint for a target, and compare every graph with the PyTorch reference.

    If a graph differs by more than the target's recipe allows, no bundle is written.
    """
    output = Output(as_json=arguments.as_json, quiet=arguments.quiet)
    if arguments.list_targets:
        _list_targets(output)
        return
    ckpt = arguments.checkpoint()
    recipe = find_recipe(arguments.target)
    out = arguments.out or Path(f"{ckpt.resolve().name}-{arguments.target}")
    start = time.monotonic()

    def report(message: str) -> None:
        output.note(f"[{format_duration(time.monotonic() - start)}] {message}")

    # Checked first: the export itself can take ten minutes.
    compile_engines = _compiler(recipe, _parse_sms(arguments.sm), arguments.timing_cache, report)
    from altogether_rt.artifacts.bundle import BundleWriter
    from altogether_rt.export.from_checkpoint import export_checkpoint
    from altogether_rt.importing.bundle import checkpoint_folder
    from altogether_rt.train.snapshot import checkpoint_of

    BundleWriter(out, overwrite=arguments.overwrite)
    with (
        checkpoint_by_name(ckpt, output, download=arguments.download) as named,
        checkpoint_of(named, report) as source,
        checkpoint_folder(source, report) as folder,
    ):
        bundle = export_checkpoint(
            folder,
            recipe,
            out,
            calibration_images=arguments.calibration_images,
            calibration_alts=arguments.calibration_alts,
            overwrite=arguments.overwrite,
            allow_download=arguments.allow_download,
            compile_engines=compile_engines,
            report=report,
        )
    _show(bundle, out, arguments.target, time.monotonic() - start, output)


def _parse_sms(text: str) -> tuple[int, ...]:
    """Compute capabilities in a list such as `80,89` or `8.0,8.9`."""
    parts = [part.strip().replace(".", "") for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and len(part) <= 3 for part in parts):
        raise typer.BadParameter(
            f"{text!r} is not a list of compute capabilities such as 80,89,120.", param_hint="--sm"
        )
    return tuple(map(int, parts))


def _compiler(
    recipe: Recipe, sms: tuple[int, ...], timing_cache: Path | None, report: Callable[[str], None]
) -> CompileEngines | None:
    """The function that compiles the engines, or None if no options ask for engines.

    Raises AltogetherError if they cannot be compiled here.
    """
    if not sms and timing_cache is None:
        return None
    if recipe.target.runtime != "tensorrt":
        raise ConfigError(
            f"the target {recipe.target.name} has no engines: leave out --sm and --timing-cache, "
            "or choose a target such as tensorrt-fp16."
        )
    if recipe.lowering.linear == "fp8-static" and any(sm < FIRST_SM_WITH_FP8 for sm in sms):
        raise ConfigError(
            f"fp8 needs a GPU of SM {FIRST_SM_WITH_FP8} or later: leave out SM {min(sms)}, or "
            "export for tensorrt-int8 or tensorrt-fp16."
        )
    from altogether_rt.runtime.tensorrt.build import build_engines
    from altogether_rt.runtime.tensorrt.compiler import open_builder

    builder = open_builder()
    builder.check_targets(sms)
    if timing_cache is not None:
        builder.check_timing_cache()
    return lambda bundle: build_engines(
        bundle, sms, bundle.path, builder, timing_cache=timing_cache, report=report
    )


def _show(bundle: Bundle, out: Path, target: str, seconds: float, output: Output) -> None:
    size = sum(spec.bytes for spec in bundle.manifest.files.values())
    parity = bundle.manifest.parity
    output.show(parity_table(output, parity, "parity with the checkpoint"))
    output.result(
        {
            "bundle": str(out),
            "bundle_id": bundle.bundle_id,
            "target": target,
            "bytes": size,
            "engines": sorted({spec.file for spec in bundle.manifest.engines}),
            "seconds": round(seconds, 1),
            "parity": dict(parity),
            "kept": bundle.manifest.provenance.get("kept", {}).get("products", []),
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
