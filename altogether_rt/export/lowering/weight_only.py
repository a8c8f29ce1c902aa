"""Weight-only quantisation with float16 activations: the decoder reads fewer bytes per step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.export.graph import GraphBuilder
from altogether_rt.export.lowering.half import HalfLinear

__all__ = ["BLOCK", "WeightOnlyLinear", "quantize_blocks"]

#: Weights of an output channel that share a scale: the block size of CUDA's fast kernels.
BLOCK = 64


@dataclass(frozen=True)
class WeightOnlyLinear:
    """ONNX Runtime's MatMulNBits in the decoder, float16 products elsewhere.

    Decoding a few rows is bound by reading the weights. Encoder and mapper run once per image and
    are bound by arithmetic, which narrower weights do not speed up.
    """

    bits: int  # 4 or 8

    def linear(
        self,
        g: GraphBuilder,
        x: str,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        name: str,
    ) -> str:
        """x (..., in), weight (out, in), bias (out,) -> (..., out)."""
        if not name.startswith("decoder."):
            return HalfLinear().linear(g, x, weight, bias, name)
        packed, scales = quantize_blocks(weight, self.bits)
        y = g.op(
            "MatMulNBits",
            x,
            g.weight(f"{name}.weight_int{self.bits}", packed),
            g.weight(f"{name}.weight_scale", scales),
            domain="com.microsoft",
            K=weight.shape[1],
            N=weight.shape[0],
            bits=self.bits,
            block_size=BLOCK,
        )
        if bias is None:
            return y
        return g.op("Add", y, g.weight(f"{name}.bias", bias.astype(np.float16)))


def quantize_blocks(
    weight: NDArray[np.float32], bits: int
) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Symmetric integers with a scale for each block of BLOCK inputs, as MatMulNBits stores them.

    weight: (out, in). Returns (out, blocks, BLOCK * bits / 8), with two weights per byte at 4 bits,
    the lower half first, and scales (out, blocks). A stored v means (v - 2^(bits - 1)) * scale.
    """
    outer, inner = weight.shape
    blocks = -(-inner // BLOCK)
    padded = np.zeros((outer, blocks * BLOCK), np.float32)
    padded[:, :inner] = weight
    grouped = padded.reshape(outer, blocks, BLOCK)
    zero = 1 << (bits - 1)
    scales = (np.abs(grouped).max(-1) / (zero - 1)).astype(np.float16)
    divisor = np.where(scales > 0, scales, 1).astype(np.float32)[..., None]
    values = np.clip(np.rint(grouped / divisor), -zero, zero - 1) + zero
    stored: NDArray[np.uint8] = values.astype(np.uint8)
    if bits == 8:
        return stored, scales
    halves = stored[..., 0::2] | np.left_shift(stored[..., 1::2], np.uint8(4))
    return halves.astype(np.uint8), scales
