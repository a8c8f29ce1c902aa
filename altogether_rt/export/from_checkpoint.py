"""Exports a checkpoint folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from altogether_rt.artifacts.bundle import Bundle
from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.export.bundling import CompileEngines, ExportSource, Report, write_bundle
from altogether_rt.export.recipes import Recipe
from altogether_rt.export.samples import draw_samples, read_samples
from altogether_rt.export.weights import SafetensorsWeights
from altogether_rt.model.encoder import with_architecture
from altogether_rt.preprocess.prompts import PromptTokenizer

__all__ = ["export_checkpoint"]


def export_checkpoint(
    folder: Path,
    recipe: Recipe,
    out: Path,
    *,
    calibration_images: Path | None = None,
    calibration_alts: Path | None = None,
    overwrite: bool = False,
    allow_download: bool = False,
    compile_engines: CompileEngines | None = None,
    report: Report = lambda message: None,
) -> Bundle:
    """Export the checkpoint in `folder` by `recipe` to the bundle `out`.

    calibration_images: a folder of images to calibrate with and to measure parity on; None: drawn
    scenes. calibration_alts: a file of their alt-texts; None: their file names. allow_download: see
    `Checkpoint.load`. Raises AltogetherError for a checkpoint that cannot be read; also as
    `write_bundle`.
    """
    checkpoint = Checkpoint.load(folder, allow_download=allow_download)
    config = checkpoint.config
    tokenizer = PromptTokenizer.of_captioner(checkpoint.tokenizer_path, config)
    samples = (
        draw_samples(config, tokenizer)
        if calibration_images is None
        else read_samples(calibration_images, config, tokenizer, calibration_alts)
    )
    report("reading the checkpoint")
    identity = {"name": folder.resolve().name, "sha256": checkpoint.sha256()}
    source = ExportSource(
        config=replace(config, encoder=with_architecture(config.encoder)),
        weights=SafetensorsWeights(checkpoint.weights_path),
        load_model=checkpoint.captioner,
        tokenizer_path=checkpoint.tokenizer_path,
        provenance={"checkpoint": {**identity, "about": dict(checkpoint.about)}},
    )
    return write_bundle(
        source,
        recipe,
        out,
        samples,
        overwrite=overwrite,
        compile_engines=compile_engines,
        report=report,
    )
