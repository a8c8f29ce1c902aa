"""int8 with activation outliers: a random checkpoint that has some, with and without smoothing.

    python benchmarks/outliers.py --ckpt CHECKPOINT --work /tmp/outliers --name opt-125m

Trained OPT models have a few channels whose activations are tens of times larger than the others,
in every layer, and so have CLIP's towers; random weights have none. Here --channels channels of
every norm in the layers of encoder, mapper and decoder are made 20 to 50 times larger in a copy of
CHECKPOINT, which is then exported to cpu-int8 once for each --smoothing; weight columns that
smoothing makes large are split. With --groups 32,128 it is exported to cpu-int4 instead, once for
each size of the groups of its weights, with that recipe's smoothing. Writes the parity figures,
stage by stage, to benchmarks/results/outliers-NAME.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from altogether_rt.bench.report import describe_machine
from altogether_rt.export.from_checkpoint import export_checkpoint
from altogether_rt.export.recipes import STAGES, Threshold, find_recipe

RESULTS = Path(__file__).parent / "results"
MIN_FACTOR, MAX_FACTOR = 20.0, 50.0
SEED = 7
FIGURES = ("mean_cosine", "worst_cosine", "greedy", "kl", "worst_kl")


def inject(source: Path, target: Path, channels: int) -> None:
    """Copy a checkpoint and multiply `channels` channels of each norm by random factors."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copyfile(file, target / file.name)
    rng = np.random.default_rng(SEED)
    chosen: dict[tuple[str, int], tuple[Any, Any]] = {}
    for path in source.glob("*.safetensors"):
        with safe_open(path, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            metadata = stream.metadata()
        for name, tensor in tensors.items():
            layer, _, _ = name.rpartition(".")
            if not _is_norm_of_a_layer(layer):
                continue
            key = (layer, len(tensor))
            if key not in chosen:  # the same channels and factors for weight and bias
                indices = rng.choice(len(tensor), channels, replace=False)
                chosen[key] = indices, rng.uniform(MIN_FACTOR, MAX_FACTOR, channels)
            indices, factors = chosen[key]
            tensor[torch.from_numpy(indices)] *= torch.from_numpy(factors).to(tensor.dtype)
        save_file(tensors, target / path.name, metadata)


def _is_norm_of_a_layer(module: str) -> bool:
    if module.startswith("encoder."):
        return ".resblocks." in module and module.rpartition(".")[2] in ("ln_1", "ln_2")
    return module.startswith(("decoder.layers.", "mapper.layers.")) and ".norm" in module


def export(checkpoint: Path, target: str, changes: dict[str, Any], out: Path) -> dict[str, Any]:
    """Parity figures of a target with these keys of its lowering; no bundle is refused here."""
    recipe = find_recipe(target)
    lowering = dataclasses.replace(recipe.lowering, **changes)
    anything = {stage: Threshold(-1.0, -1.0) for stage in STAGES}
    recipe = dataclasses.replace(recipe, lowering=lowering, parity=anything)
    bundle = export_checkpoint(checkpoint, recipe, out, overwrite=True)
    figures = bundle.manifest.parity
    return {
        stage: {name: figures[stage][name] for name in FIGURES if name in figures[stage]}
        for stage in STAGES
        if stage in figures
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for a copy and a bundle")
    parser.add_argument("--channels", type=int, default=6)
    parser.add_argument("--smoothing", default="0,0.75", help="strengths, separated by commas")
    parser.add_argument("--groups", default="", help="of 4-bit weights, separated by commas")
    parser.add_argument("--name", required=True, help="name of the result: outliers-NAME.json")
    arguments = parser.parse_args()
    checkpoint = arguments.work / "outliers"
    if not checkpoint.exists():
        inject(arguments.ckpt, checkpoint, arguments.channels)
    smoothing = map(float, arguments.smoothing.split(","))
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        f"smoothing {strength:g}": ("cpu-int8", {"smoothing": strength}) for strength in smoothing
    }
    if arguments.groups:
        groups = map(int, arguments.groups.split(","))
        runs = {f"groups of {group}": ("cpu-int4", {"group": group}) for group in groups}
    figures = {}
    for name, (target, changes) in runs.items():
        figures[name] = export(checkpoint, target, changes, arguments.work / "bundle")
        print(name, json.dumps(figures[name]), flush=True)
    result = {
        "command": f"python benchmarks/outliers.py --name {arguments.name} "
        f"--channels {arguments.channels} "
        + (
            f"--groups {arguments.groups}"
            if arguments.groups
            else f"--smoothing {arguments.smoothing}"
        ),
        "machine": describe_machine(),
        "channels_a_norm": arguments.channels,
        "factors": [MIN_FACTOR, MAX_FACTOR],
        "cosine_to_the_checkpoint": figures,
    }
    path = RESULTS / f"outliers-{arguments.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
