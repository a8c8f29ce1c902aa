"""Bundles whose speed can be measured, without what makes an export slow: 4 GB of memory, not 14.

    altogether-rt init --config altogether-opt-1.3b --random-weights --out ckpt
    python benchmarks/uncalibrated.py --ckpt ckpt --out WORK --targets cpu-int8,cpu-int4
    python benchmarks/uncalibrated.py --ckpt ckpt --out WORK --targets cpu-int4 \\
        --keep decoder.layers.0,decoder.layers.1,decoder.layers.2,decoder.layers.3,decoder.layers.4

The exporter's own graphs, operators and sizes, with the weights of CKPT. Nothing is calibrated:
every scale of the cache is the same, 4-bit weights are rounded each by itself, no outliers move
into weights, and of the decoder only the head and --keep are kept more precise. So the bundles
write nonsense, as those of random weights do anyway, in the same time. Encoder and mapper are the
same in all. With --keep, the bundle is TARGET-kept: so much is kept of a decoder with outliers.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from altogether_rt.artifacts.bundle import BundleWriter
from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.artifacts.manifest import TOKENIZER_NAME
from altogether_rt.export.bundling import WEIGHTS_NAME, ExportSource, _describe
from altogether_rt.export.calibration.keeping import resolve_names
from altogether_rt.export.decoder import build_decoder
from altogether_rt.export.encoder import build_encoder
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import CacheScales
from altogether_rt.export.lowering.choice import build_lowering
from altogether_rt.export.mapper import build_mapper
from altogether_rt.export.recipes import Recipe, find_recipe
from altogether_rt.export.weights import SafetensorsWeights, WeightsFile
from altogether_rt.model.encoder import with_architecture

#: What a step of the cache's int8 values is worth; random weights make keys and values of about 1.
SCALE = 0.02


def write_encoder(checkpoint: Checkpoint, folder: Path) -> None:
    """The encoder in int8, as all targets have it."""
    lowering = build_lowering(find_recipe("cpu-int8").lowering)
    with WeightsFile(folder / "encoder.bin") as file:
        g = GraphBuilder("encoder", file, lowering.opset)
        build_encoder(g, checkpoint.config.encoder, checkpoint.encoder(), lowering)
        g.save(folder / "encoder.onnx")


def write_bundle(checkpoint: Checkpoint, recipe: Recipe, encoder: Path, out: Path) -> None:
    """Mapper and decoder, beside links to the encoder's files."""
    config = checkpoint.config
    decoder = config.decoder
    recipe = recipe.for_decoder(decoder.width)
    same = [np.full((decoder.num_kv_heads, decoder.head_dim), SCALE, np.float32)] * decoder.layers
    kept = resolve_names(recipe.lowering.keep, decoder)
    lowering = build_lowering(recipe.lowering, CacheScales(same, same), kept=kept)
    weights = SafetensorsWeights(checkpoint.weights_path)
    with BundleWriter(out, overwrite=True) as writer:
        for name in ("encoder.onnx", "encoder.bin"):
            os.link(encoder / name, writer.folder / name)
        with WeightsFile(writer.folder / WEIGHTS_NAME) as file:
            for name in ("mapper", "decoder"):
                g = GraphBuilder(name, file, lowering.opset)
                if name == "mapper":
                    build_mapper(g, config, weights, lowering)
                else:
                    build_decoder(g, decoder, weights, lowering, config.slot_positions)
                g.save(writer.folder / f"{name}.onnx")
        shutil.copyfile(checkpoint.tokenizer_path, writer.folder / TOKENIZER_NAME)
        source = ExportSource(
            config=replace(config, encoder=with_architecture(config.encoder)),
            weights=weights,
            load_model=checkpoint.captioner,
            tokenizer_path=checkpoint.tokenizer_path,
            provenance={"calibrated": False},
        )
        manifest = _describe(source, recipe, lowering, writer)
        graphs = dict(manifest.graphs)
        graphs["encoder"] = replace(graphs["encoder"], weights=("encoder.bin",))
        bundle = writer.commit(replace(manifest, graphs=graphs))
    print(bundle.path, bundle.bundle_id, manifest.target.weight_group, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundles")
    parser.add_argument("--targets", default="cpu-int8,cpu-int4")
    parser.add_argument("--group", type=int, default=0, help="of 4-bit weights, instead of its own")
    parser.add_argument("--keep", help="products to keep more precise, by commas")
    arguments = parser.parse_args()
    checkpoint = Checkpoint.load(arguments.ckpt)
    encoder = arguments.out / "encoder"
    if not encoder.exists():
        encoder.mkdir(parents=True)
        write_encoder(checkpoint, encoder)
    for target in arguments.targets.split(","):
        recipe = find_recipe(target)
        name = target
        if arguments.group and recipe.lowering.linear == "int4-group":
            recipe = replace(recipe, lowering=replace(recipe.lowering, group=arguments.group))
            name = f"{target}-{arguments.group}"
        if arguments.keep:
            keep = (*recipe.lowering.keep, *arguments.keep.split(","))
            recipe = replace(recipe, lowering=replace(recipe.lowering, keep=keep))
            name = f"{name}-kept"
        write_bundle(checkpoint, recipe, encoder, arguments.out / name)


if __name__ == "__main__":
    main()
