"""Ranges of the encoder's products, for static scales.

The encoder's graph is torch's, whose products have no names in the module. So the graph itself is
run, with one more output for each product: the largest absolute value that it reads.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from altogether_rt.config import EncoderConfig
from altogether_rt.export.encoder import build_encoder
from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.attention import GroupQueryAttention
from altogether_rt.export.lowering.base import Fp32Linear, Fp32Table, Lowering
from altogether_rt.export.weights import WeightsFile
from altogether_rt.runtime.ort_session import open_session

__all__ = ["encoder_ranges"]


class _ObservedLinear(Fp32Linear):
    """Products in float32, each with an output beside it."""

    def __init__(self) -> None:
        self.outputs: dict[str, str] = {}  # name of the product -> of the output

    def linear(
        self,
        g: GraphBuilder,
        x: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        name: str,
    ) -> str:
        largest = g.op("ReduceMax", g.op("Abs", x), keepdims=0)
        self.outputs[name] = f"largest.{len(self.outputs)}"
        g.output(largest, self.outputs[name], np.float32, [])
        return super().linear(g, x, weight, bias, name)


def encoder_ranges(
    config: EncoderConfig, module: nn.Module, pixels: NDArray[np.uint8]
) -> dict[str, float]:
    """Largest absolute input of each product, by the name that `build_encoder` gives it.

    pixels: (N, H, W, 3); images are run one by one.
    """
    linear = _ObservedLinear()
    lowering = Lowering(linear, Fp32Table(), GroupQueryAttention())
    with tempfile.TemporaryDirectory(prefix="altogether-rt-") as temporary:
        path = Path(temporary) / "encoder.onnx"
        with WeightsFile(path.with_name("weights.bin")) as weights:
            g = GraphBuilder("encoder", weights, lowering.opset)
            build_encoder(g, config, module, lowering)
            g.save(path)
        session = open_session(path, threads=None)
        names = list(linear.outputs.values())
        found = [session.run(names, {"pixels": image[None]}) for image in pixels]
    largest = np.max(np.array(found, np.float32), axis=0)
    return dict(zip(linear.outputs, largest.tolist(), strict=True))
