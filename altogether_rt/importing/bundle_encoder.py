"""Recovers the weights of an exported image encoder under open_clip's names.

The encoder's graph comes from torch's exporter, which folds batch norms into convolutions, joins
and transposes weights and renames them. The same architecture is therefore exported again with a
mark instead of every weight, a number that occurs nowhere else. The exporter moves the marks as it
moved the weights, so each mark's position in the new graph is its weight's position in the bundle.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from altogether_rt.config import EncoderConfig
from altogether_rt.errors import BundleError
from altogether_rt.export.encoder import build_encoder as write_encoder
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import GroupQueryAttention
from altogether_rt.export.lowering.base import Fp32Linear, Fp32Table, Lowering
from altogether_rt.export.weights import WeightsFile
from altogether_rt.importing.bundle_weights import GraphWeights
from altogether_rt.model.encoder import build_encoder

__all__ = ["recover_encoder"]

#: Bits of the smallest normal float32, which no kernel flushes to zero. Marks count up from here;
#: they stay below 2^31, so they are finite and positive.
FIRST_MARK = 0x00800000
#: Positive, as PyTorch 2.11 wants it, and 1 + this is 1.
_NO_EPSILON = 1e-30
_BATCH_NORM: Any = nn.modules.batchnorm._BatchNorm


def recover_encoder(graph: GraphWeights, config: EncoderConfig) -> dict[str, Tensor]:
    """The state dict of open_clip's vision tower that `graph` was exported from.

    A folded batch norm is recovered as the identity with the folded bias; a parameter that the
    graph does not use is zero. Raises BundleError if this version exports the architecture as
    another graph.
    """
    encoder = build_encoder(config)
    marks = _Marks.make(encoder.visual)
    with tempfile.TemporaryDirectory() as folder:
        marked = _export(encoder, config, Path(folder))
        for found, weights in _pairs(marked, graph):
            marks.assign(found, weights)
    return marks.state()


@dataclass
class _Marks:
    """Numbers all elements of the marked tensors, and collects the value found for each number."""

    marked: dict[str, Tensor]
    fixed: dict[str, Tensor]  # parameters of batch norms, set to the identity
    values: NDArray[np.float32]

    @classmethod
    def make(cls, visual: nn.Module) -> _Marks:
        """Replace every weight of `visual` by a mark; set its batch norms to the identity."""
        fixed = dict(_make_batch_norms_plain(visual))
        marked = {name: t for name, t in visual.state_dict().items() if name not in fixed}
        first = FIRST_MARK
        with torch.no_grad():
            for tensor in marked.values():
                numbers = torch.arange(first, first + tensor.numel(), dtype=torch.int32)
                tensor.copy_(numbers.view(torch.float32).view(tensor.shape))
                first += tensor.numel()
        return cls(marked, fixed, np.zeros(first - FIRST_MARK, np.float32))

    def assign(self, marks: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        """Store `weights` under the numbers in `marks`, unless that is a constant of the graph."""
        numbers = marks.view(np.int32).astype(np.int64) - FIRST_MARK
        if ((numbers >= 0) & (numbers < len(self.values))).all():
            self.values[numbers] = weights

    def state(self) -> dict[str, Tensor]:
        """The tensors by name, with the values found."""
        sizes = [tensor.numel() for tensor in self.marked.values()]
        parts = torch.split(torch.from_numpy(self.values), sizes)
        found = {
            name: part.view(tensor.shape)
            for (name, tensor), part in zip(self.marked.items(), parts, strict=True)
        }
        return found | self.fixed


def _make_batch_norms_plain(visual: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Set batch norms to the identity plus their bias, with an epsilon so small that it is exact.

    Yields the parameters that express the identity in a checkpoint, where epsilon is not so small.
    """
    for prefix, module in visual.named_modules():
        if not isinstance(module, _BATCH_NORM):
            continue
        width, eps = module.num_features, module.eps
        with torch.no_grad():
            module.weight.fill_(1)
            module.running_mean.fill_(0)
            module.running_var.fill_(1)
        module.eps = _NO_EPSILON
        yield f"{prefix}.weight", torch.ones(width)
        yield f"{prefix}.running_mean", torch.zeros(width)
        yield f"{prefix}.running_var", torch.full((width,), 1 - eps)
        yield f"{prefix}.num_batches_tracked", torch.tensor(0)


def _export(encoder: nn.Module, config: EncoderConfig, folder: Path) -> GraphWeights:
    lowering = Lowering(Fp32Linear(), Fp32Table(), GroupQueryAttention())
    path = folder / "encoder.onnx"
    with WeightsFile(folder / "weights.bin") as weights:
        builder = GraphBuilder("encoder", weights)
        write_encoder(builder, config, encoder, lowering)
        builder.save(path)
    return GraphWeights(path)


def _pairs(
    marked: GraphWeights, graph: GraphWeights
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Marks and weights, for every use of a weight in the two graphs."""
    uses = list(graph.uses())
    for operator, expected in marked.uses():
        found, name = uses[0] if uses else ("nothing", "nothing")
        marks = marked.read(expected)
        if found == operator and graph.read(name).shape == marks.shape:
            yield marks, graph.read(name)
            uses.pop(0)
        elif not (operator == "Add" and expected.endswith(".bias")):  # torch omits biases of 0
            raise _unknown(graph, f"it has {name} in {found} instead of {expected} in {operator}")
    if uses:
        raise _unknown(graph, f"it also has {uses[0][1]} in {uses[0][0]}")


def _unknown(graph: GraphWeights, problem: str) -> BundleError:
    return BundleError(
        f"{graph.path} is not the graph that this version exports for such an encoder ({problem}), "
        "so its weights cannot be identified: use the version that exported it."
    )
