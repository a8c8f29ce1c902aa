"""Exports a torch model to a verified bundle on disk."""

from __future__ import annotations

import datetime
import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from altogether_rt.artifacts.bundle import Bundle, BundleWriter
from altogether_rt.artifacts.engines import EngineSpec
from altogether_rt.artifacts.manifest import (
    DECODE_NAME,
    GRAPH_NAMES,
    PROMPTS_NAME,
    TOKENIZER_NAME,
    BundleManifest,
    CacheSpec,
    FileSpec,
    GraphSpec,
)
from altogether_rt.config import CaptionerConfig
from altogether_rt.export.calibration.encoder_ranges import encoder_ranges
from altogether_rt.export.calibration.keeping import Kept, choose_for
from altogether_rt.export.calibration.observe import observe
from altogether_rt.export.calibration.sensitivity import decoder_products
from altogether_rt.export.calibration.smooth import SmoothedWeights
from altogether_rt.export.calibration.smooth_encoder import smooth_encoder
from altogether_rt.export.decoder import build_decode_step, build_decoder, build_prompts
from altogether_rt.export.encoder import build_encoder
from altogether_rt.export.graph import GraphBuilder, tensor_specs
from altogether_rt.export.lowering.attention import CacheScales
from altogether_rt.export.lowering.base import Lowering
from altogether_rt.export.lowering.choice import build_lowering
from altogether_rt.export.lowering.quantize import INT8_MAX
from altogether_rt.export.mapper import build_mapper
from altogether_rt.export.recipes import KEEPING, Recipe
from altogether_rt.export.samples import Samples
from altogether_rt.export.step_graphs import with_step_graphs
from altogether_rt.export.verify import (
    NUM_STEPS,
    Recording,
    check_parity,
    compare,
    continue_captions,
    record,
)
from altogether_rt.export.weights import WeightsFile, WeightSource
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.cpu.trial import remember_tried
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["CompileEngines", "ExportSource", "write_bundle", "write_graphs"]

WEIGHTS_NAME = "weights.bin"
_TOOLS = ("altogether-rt", "torch", "onnx", "onnxruntime", "onnxscript", "open_clip_torch")

Report = Callable[[str], None]
CompileEngines = Callable[[Bundle], tuple[EngineSpec, ...]]


@dataclass(frozen=True)
class ExportSource:
    """What is exported: a configuration, its weights, and the torch model made of them."""

    config: CaptionerConfig
    weights: WeightSource  # mapper.* and decoder.*
    #: The model with its encoder; freed before the decoder is written.
    load_model: Callable[[], CaptionerModel]
    tokenizer_path: Path
    provenance: Mapping[str, Any]


#: How far values of an int8 cache may exceed the largest ones seen on the samples without clipping.
CACHE_MARGIN = 1.25
#: Tokens of each caption that 4-bit weights are calibrated on, beyond those that parity is measured
#: on.
MORE_STEPS = 32


def write_bundle(
    source: ExportSource,
    recipe: Recipe,
    out: Path,
    samples: Samples,
    *,
    overwrite: bool = False,
    compile_engines: CompileEngines | None = None,
    report: Report = lambda message: None,
) -> Bundle:
    """Export `source` by `recipe` to the folder `out`, which is written whole or not at all.

    compile_engines: adds TensorRT engines of the finished graphs to the bundle's folder. report:
    gets a line of text at the start of every stage. Raises ParityError if a graph differs from the
    torch reference by more than the recipe allows, BundleError if `out` cannot be used.
    """
    recipe = recipe.for_decoder(source.config.decoder.width)
    build_lowering(recipe.lowering).attention.check(source.config.decoder)
    num_slots = len(samples.prompt_ids)
    with BundleWriter(out, overwrite=overwrite) as writer:
        report("running the torch reference")
        reference = _run_reference(source, samples, recipe, report)
        recording, encoder, smoothed = reference.recording, reference.encoder, reference.smoothed
        quantized = recipe.lowering.linear in KEEPING or recipe.lowering.encoder
        if quantized and recipe.lowering.smoothing > 0:
            smooth_encoder(encoder, reference.norms, recipe.lowering.smoothing)
        scales = _cache_scales(source.config, smoothed)
        ranges, kept = smoothed.input_ranges(), reference.kept
        if recipe.lowering.encoder:
            report("observing the encoder")
            ranges |= encoder_ranges(source.config.encoder, encoder, samples.pixels)
        lowering = build_lowering(
            recipe.lowering, scales, ranges, kept.products, smoothed.input_rows
        )
        write_graphs(source.config, smoothed, encoder, lowering, writer.folder, report=report)
        shutil.copyfile(source.tokenizer_path, writer.folder / TOKENIZER_NAME)
        report("comparing the graphs with the reference")
        manifest = _describe(source, recipe, lowering, writer)
        with OnnxRuntime(Bundle(writer.folder, manifest), num_slots=num_slots) as candidate:
            agreements = compare(recording, candidate)
        agreements = with_step_graphs(recording, Bundle(writer.folder, manifest), agreements)
        figures = check_parity(agreements, recipe.parity)
        counts = {"images": len(samples.pixels), "prompts": num_slots}
        parity = {"inputs": samples.origin, **counts, **figures}
        provenance = {**manifest.provenance, **kept.described()}
        manifest = replace(manifest, parity=parity, provenance=provenance)
        if compile_engines is not None:
            manifest = _add_engines(manifest, writer.folder, compile_engines)
        bundle = writer.commit(manifest)
    remember_tried(bundle)  # its graphs have just been run
    return bundle


@dataclass(frozen=True)
class _Reference:
    """What is known from running torch; of its model, only the encoder stays in memory."""

    recording: Recording
    encoder: nn.Module
    smoothed: SmoothedWeights
    norms: Mapping[str, NDArray[np.float32]]  # of the encoder
    kept: Kept


def _run_reference(
    source: ExportSource, samples: Samples, recipe: Recipe, report: Report
) -> _Reference:
    """Run torch on the samples."""
    model = source.load_model()
    assert model.encoder is not None
    lowering = recipe.lowering
    products = decoder_products(source.config.decoder)
    in_groups = lowering.linear == "int4-group"
    # As long as the samples are: of all that a slot may hold, the cache of a large decoder has
    # gigabytes.
    longest = max(map(len, samples.prompt_ids)) + len(samples.before_ids)
    longest += source.config.mapper.prefix_length + NUM_STEPS + (MORE_STEPS if in_groups else 0)
    capacity = min(source.config.capacity, longest)
    with TorchRuntime(model, num_slots=len(samples.prompt_ids), capacity=capacity) as reference:
        with observe(reference, products if in_groups else ()) as calibration:
            recording = record(reference, samples)
            if in_groups:
                continue_captions(reference, recording, MORE_STEPS)
        smoothed = SmoothedWeights(
            source.weights, source.config, calibration, lowering.smoothing, decoder=not in_groups
        )
        if lowering.keep_budget:
            report("estimating what rounding costs")
        kept = choose_for(lowering, reference.model.decoder, smoothed, recording)
        return _Reference(recording, model.encoder, smoothed, calibration.norms, kept)


def _cache_scales(config: CaptionerConfig, smoothed: SmoothedWeights) -> CacheScales:
    def scales(largest: NDArray[np.float32]) -> NDArray[np.float32]:
        # Nothing is known of a channel that was 0 on all samples: it gets the largest scale.
        seen = np.where(largest > 0, largest, max(float(largest.max()), 1.0))
        step: NDArray[np.float32] = (seen * (CACHE_MARGIN / INT8_MAX)).astype(np.float32)
        return step

    layers = range(config.decoder.layers)
    return CacheScales(
        [scales(smoothed.keys(layer)) for layer in layers],
        [scales(smoothed.values(layer)) for layer in layers],
    )


def write_graphs(
    config: CaptionerConfig,
    weights: WeightSource,
    encoder: nn.Module,
    lowering: Lowering,
    folder: Path,
    *,
    report: Report = lambda message: None,
) -> None:
    """Write `encoder.onnx`, `mapper.onnx`, `decoder.onnx` and the weights file that they share.

    weights: of mapper and decoder. encoder: a module from uint8 pixels to embeddings.
    """
    slot_positions = config.slot_positions
    emitters: dict[str, Callable[[GraphBuilder], None]] = {
        "encoder": lambda g: build_encoder(g, config.encoder, encoder, lowering),
        "mapper": lambda g: build_mapper(g, config, weights, lowering),
        "decoder": lambda g: build_decoder(g, config.decoder, weights, lowering, slot_positions),
    }
    if lowering.decode is not None and lowering.decode.supports(config.decoder):
        emitters[DECODE_NAME] = lambda g: build_decode_step(
            g, config.decoder, weights, lowering, slot_positions
        )
    if lowering.prompts is not None and lowering.prompts.supports(config.decoder):
        emitters[PROMPTS_NAME] = lambda g: build_prompts(
            g, config.decoder, weights, lowering, slot_positions
        )
    with WeightsFile(folder / WEIGHTS_NAME, shared=("decoder.", "decode.")) as weights_file:
        for name, emit in emitters.items():
            report(f"writing the {name}")
            g = GraphBuilder(name, weights_file, lowering.opset)
            emit(g)
            g.save(folder / f"{name}.onnx")


def _describe(
    source: ExportSource, recipe: Recipe, lowering: Lowering, writer: BundleWriter
) -> BundleManifest:
    files = writer.describe_files()
    decoder = source.config.decoder
    return BundleManifest(
        config=source.config,
        target=recipe.target,
        graphs={
            name: _describe_graph(writer.folder, name, files)
            for name in (*GRAPH_NAMES, DECODE_NAME, PROMPTS_NAME)
            if f"{name}.onnx" in files
        },
        files=files,
        cache=CacheSpec(
            layers=decoder.layers,
            kv_heads=decoder.num_kv_heads,
            head_dim=decoder.head_dim,
            dtype=lowering.attention.cache_dtype,
            min_chunk=lowering.attention.min_chunk,
        ),
        provenance={
            **source.provenance,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tools": _tool_versions(),
        },
    )


def _add_engines(
    manifest: BundleManifest, folder: Path, compile_engines: CompileEngines
) -> BundleManifest:
    engines = compile_engines(Bundle(folder, manifest))
    plans = {
        spec.file: FileSpec((folder / spec.file).stat().st_size, spec.sha256) for spec in engines
    }
    return replace(manifest, engines=engines, files={**manifest.files, **plans})


def _describe_graph(folder: Path, name: str, files: Mapping[str, FileSpec]) -> GraphSpec:
    file = f"{name}.onnx"
    graph = onnx.load(folder / file, load_external_data=False).graph

    def specs(values: Any) -> Any:
        kept = [v for v in values if not v.name.startswith(("past_key", "past_value", "present_"))]
        return tensor_specs(kept)

    return GraphSpec(
        file=file,
        sha256=files[file].sha256,
        inputs=specs(graph.input),
        outputs=specs(graph.output),
        weights=(WEIGHTS_NAME,),
    )


def _tool_versions() -> dict[str, str]:
    versions = {}
    for tool in _TOOLS:
        try:
            versions[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
