"""How weights are packed on a device: in one type, in fp8 where products are, norms in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.runtime.torch.float8 import (
    Float8Products,
    Float8Rows,
    fits_float8,
    float8_product,
    has_float8_products,
    quantize_rows,
)
from altogether_rt.runtime.torch.kernels.choice_of_rows import (
    PLAIN_ROWS,
    RowKernels,
    RowShapes,
    choose_row_kernels,
)
from altogether_rt.runtime.torch.kernels.plain_rows import Activation, NormWeights

__all__ = ["PackedBlock", "PackedLinear", "Packing", "feed_forward", "joined", "operand"]


@dataclass(frozen=True)
class PackedLinear:
    """A linear layer, or several that read the same: x (M, in) -> (M, out).

    In the type of the step it gives that type; of rows in fp8 it gives bfloat16. The bias is part
    of the product.
    """

    weight: Tensor | None  # (out, in); None: fp8 alone
    bias: Tensor | None  # (out,)
    rounded: Float8Rows | None = None  # (out, in), with a scale for each output
    rounded_bias: Tensor | None = None  # (out,) bfloat16
    native: bool = False  # whether the device has products in fp8

    def takes_rows(self, float8: bool) -> bool:
        """Whether what it reads is to be in fp8, in a phase that is, or is not."""
        return self.weight is None or (float8 and self.rounded is not None)

    def __call__(self, x: Tensor | Float8Rows) -> Tensor:
        if isinstance(x, Float8Rows):
            assert self.rounded is not None
            return float8_product(x, self.rounded, bias=self.rounded_bias, native=self.native)
        assert self.weight is not None
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)

    def relu(self, x: Tensor) -> Tensor:
        """The ReLU of what it gives of x, which is not in fp8: one kernel where PyTorch has it."""
        assert self.weight is not None
        x = x.to(self.weight.dtype)
        if self.bias is None or not hasattr(torch, "_addmm_activation"):
            return F.linear(x, self.weight, self.bias).relu_()
        return torch._addmm_activation(self.bias, x, self.weight.t(), use_gelu=False)


@dataclass(frozen=True)
class PackedBlock:
    """A transformer layer: attention and feed-forward, each with its norm."""

    norm1: NormWeights
    qkv: PackedLinear  # queries, keys and values in one product
    out: PackedLinear
    norm2: NormWeights
    fc1: PackedLinear  # with a gate: the gate's outputs, then its own
    fc2: PackedLinear
    activation: Activation
    gated: bool = False


class Packing:
    """Copies weights to a device, and chooses what runs between products once all are there."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        *,
        float8: Float8Products = "none",
        rows: RowKernels | None = None,
    ) -> None:
        """dtype: of weights and of values between operations. float8: products of blocks in fp8.
        rows: None: the fastest that the device runs, see `choose_rows`."""
        self.device, self.dtype = device, dtype
        self.float8 = float8 != "none"
        #: Whether steps that follow a prompt are in fp8 as the prompt is.
        self.float8_steps = float8 == "all"
        self.rows = rows or PLAIN_ROWS
        self._given = rows is not None
        self._native = self.float8 and has_float8_products(device)
        self._norms: set[tuple[int, bool]] = set()
        self._activations: set[tuple[int, Activation, bool]] = set()

    def choose_rows(self) -> None:
        """Choose `rows` for what was packed; on a GPU the kernels are compiled and tried."""
        if not self._given:
            shapes = RowShapes(tuple(self._norms), tuple(self._activations))
            self.rows = choose_row_kernels(self.device, self.dtype, shapes, float8=self.float8)

    def tensor(self, weight: Tensor) -> Tensor:
        """A copy in the type of the step."""
        return weight.detach().to(self.device, self.dtype, copy=True)

    def norm(self, norm: nn.Module) -> NormWeights:
        packed = NormWeights.of(norm, self.device)
        self._norms.add((len(packed.weight), packed.rms))
        return packed

    def linear(self, weight: Tensor, bias: Tensor | None) -> PackedLinear:
        """A layer that is not in fp8."""
        return PackedLinear(self.tensor(weight), None if bias is None else self.tensor(bias))

    def block(
        self,
        norms: tuple[nn.Module, nn.Module],
        *,
        qkv: tuple[Tensor, Tensor | None],
        out: tuple[Tensor, Tensor | None],
        fc1: tuple[Tensor, Tensor | None],
        fc2: tuple[Tensor, Tensor | None],
        activation: Activation,
        gated: bool = False,
        keep_half: bool = False,
    ) -> PackedBlock:
        """A block of weights (out, in) and biases (out,); see `PackedBlock`.

        keep_half: with fp8, keep the layers in the type of the step beside it, for other phases.
        """
        inner = len(fc1[0]) // 2 if gated else len(fc1[0])
        self._activations.add((inner, activation, gated))
        if self.float8:  # what attention gives is rounded by itself
            self._activations.add((out[0].shape[1], "none", False))
        first, second = (self.norm(each) for each in norms)
        packed = [self._product(*each, keep_half) for each in (qkv, out, fc1, fc2)]
        return PackedBlock(
            first, packed[0], packed[1], second, packed[2], packed[3], activation, gated
        )

    def _product(self, weight: Tensor, bias: Tensor | None, keep_half: bool) -> PackedLinear:
        plain = None if bias is None else self.tensor(bias)
        if not self.float8 or not fits_float8(weight):
            return PackedLinear(self.tensor(weight), plain)
        rounded = quantize_rows(weight.detach().to(self.device))
        small = None if bias is None else bias.detach().to(self.device, torch.bfloat16)
        half = self.tensor(weight) if keep_half else None
        return PackedLinear(half, plain, rounded, small, self._native)


def joined(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of layers that read the same, as one layer."""
    biases: Sequence[Tensor | None] = [layer.bias for layer in layers]
    given = [bias for bias in biases if bias is not None]
    assert len(given) in (0, len(layers))
    weight = torch.cat([layer.weight.detach() for layer in layers])
    return weight, torch.cat([bias.detach() for bias in given]) if given else None


def operand(rows: RowKernels, x: Tensor, reader: PackedLinear, float8: bool) -> Tensor | Float8Rows:
    """x (M, W) as `reader` takes it, where no kernel before it could write it so."""
    return rows.activate(x, "none", float8=True) if reader.takes_rows(float8) else x


def feed_forward(
    rows: RowKernels, block: PackedBlock, x: Tensor | Float8Rows, float8: bool
) -> Tensor:
    """x (M, W) as `block.fc1` takes it -> (M, W), without the residual."""
    small = block.fc2.takes_rows(float8)
    if block.activation == "relu" and not block.gated and not small and isinstance(x, Tensor):
        return block.fc2(block.fc1.relu(x))
    return block.fc2(rows.activate(block.fc1(x), block.activation, gated=block.gated, float8=small))
