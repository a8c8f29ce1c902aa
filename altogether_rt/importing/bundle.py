"""Recovers a checkpoint from a CPU bundle, so that it can be exported for other targets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from altogether_rt.artifacts.bundle import Bundle, find_source
from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.errors import BundleError
from altogether_rt.export.samples import draw_samples
from altogether_rt.export.verify import compare, record
from altogether_rt.importing.bundle_encoder import recover_encoder
from altogether_rt.importing.bundle_weights import GraphWeights, recover_parameters
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import build_encoder
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.cpu.runtime import OnnxRuntime
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["checkpoint_folder", "recover_checkpoint"]

Report = Callable[[str], None]

#: Minimum mean cosine between the bundle's graphs and torch with the recovered weights. The weights
#: are the same, so an int8 bundle differs only by its rounding of activations.
MIN_COSINE = 0.99


@contextmanager
def checkpoint_folder(source: Path, report: Report = lambda message: None) -> Iterator[Path]:
    """`source` if it is a checkpoint; if it is a bundle, a temporary checkpoint made from it."""
    bundle = find_source(source)
    if bundle is None:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="altogether-rt-") as temporary:
        folder = Path(temporary) / source.resolve().name
        report("recovering the checkpoint from the bundle")
        recover_checkpoint(bundle, folder)
        yield folder


def recover_checkpoint(source: Path, out: Path) -> Checkpoint:
    """Write the weights of the CPU bundle in `source` as a checkpoint to `out`, encoder included.

    Weights of an int8 bundle keep its rounding. Raises BundleError for a bundle of another runtime,
    and for graphs whose structure is not the one that this version exports.
    """
    bundle = Bundle.load(source)
    target = bundle.manifest.target
    if (target.runtime, target.device) != ("onnxruntime", "cpu"):
        raise BundleError(
            f"{source} is a bundle for {target.runtime} on {target.device}, but only bundles for "
            "onnxruntime on cpu can be converted to checkpoints: give one of those."
        )
    state = _recover_state(bundle)
    _check(bundle, state)
    about = {
        "recovered_from_bundle": bundle.bundle_id,
        "recovered_from_target": target.name,
        "recovered_from_precision": target.precision,
        "original_checkpoint": dict(bundle.manifest.provenance.get("checkpoint", {})),
    }
    save_checkpoint(out, bundle.config, state, bundle.tokenizer_path, about)
    return Checkpoint.load(out)


def _recover_state(bundle: Bundle) -> dict[str, Tensor]:
    config = bundle.config
    state: dict[str, Tensor] = {}
    with torch.device("meta"):
        expected = CaptionerModel(config).state_dict()
    for part in ("mapper", "decoder"):
        shapes = {k: tuple(v.shape) for k, v in expected.items() if k.startswith(f"{part}.")}
        graph = GraphWeights(bundle.graph_path(part))
        found = recover_parameters(graph, shapes, tied_head=config.decoder.tied_head)
        state |= {name: torch.from_numpy(np.array(array)) for name, array in found.items()}
    visual = recover_encoder(GraphWeights(bundle.graph_path("encoder")), config.encoder)
    return state | {f"encoder.{name}": tensor for name, tensor in visual.items()}


def _check(bundle: Bundle, state: Mapping[str, Tensor]) -> None:
    """Raises BundleError if the bundle's graphs do not compute what torch computes with `state`."""
    config = bundle.config
    tokenizer = PromptTokenizer.of_captioner(bundle.tokenizer_path, config)
    samples = draw_samples(config, tokenizer)
    model = CaptionerModel(config, build_encoder(config.encoder))
    model.load_state_dict(
        {name.replace("encoder.", "encoder.visual.", 1): tensor for name, tensor in state.items()}
    )
    num_slots = len(samples.pixels)
    with TorchRuntime(model, num_slots=num_slots) as reference:
        recording = record(reference, samples)
    with OnnxRuntime(bundle, num_slots=num_slots) as candidate:
        agreements = compare(recording, candidate)
    for stage, agreement in agreements.items():
        if not agreement.mean_cosine >= MIN_COSINE:  # NaN fails too
            raise BundleError(
                f"the {stage} of {bundle.path} does not compute what its weights compute in torch "
                f"(cosine {agreement.mean_cosine:.5f}), so the bundle cannot be converted to a "
                "checkpoint: use the version of altogether-rt that exported it."
            )
