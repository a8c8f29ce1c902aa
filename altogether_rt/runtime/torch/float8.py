"""Linear layers in fp8 (e4m3): one scale for each row of activations and each channel of weights.

On GPUs from SM 89 on, `torch._scaled_mm` multiplies the stored values and scales the sums; its
result is bfloat16. Elsewhere the same values are multiplied in float32, which is the definition of
the arithmetic: products of two e4m3 numbers are exact in float32, and so is every sum that does not
exceed its 24 bits. A scale a row makes a row's result independent of its batch.

What a GPU's fp8 units add differently: their accumulator holds fewer bits than float32 unless
`use_fast_accum` is off, and even then adds in an order of its own. Parity is therefore measured
where it runs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from altogether_rt.errors import AltogetherError, reason

__all__ = [
    "E4M3_MAX",
    "FLOAT8_SM",
    "SMALLEST",
    "Float8Linear",
    "Float8Products",
    "Float8Rows",
    "fits_float8",
    "float8_product",
    "float8_refusal",
    "has_float8_products",
    "in_float8",
    "quantize_rows",
    "require_float8",
    "to_float8",
]

_LOG = logging.getLogger(__name__)
E4M3_MAX = 448.0  # the largest finite number of torch.float8_e4m3fn
#: Used instead of the largest value of a row of zeros, so that the row stays zero and not 0/0.
SMALLEST = 1e-12
#: Both sizes of a weight must be multiples of this for the GPU's kernel.
_MULTIPLE = 16
#: Numbers of rows that are tried first, as prompts and images bring them, and the weights' sides.
_TRIED_ROWS, _TRIED_SIDE = (1, 5, 16, 17, 257), 256
#: Which products of a captioner are in fp8: none, those of encoder, mapper and prompts, or all but
#: the head's.
Float8Products = Literal["none", "prompts", "all"]
#: The first compute capability with e4m3 products, and with conversions to e4m3: 8.9.
FLOAT8_SM = 89


class Float8Rows(NamedTuple):
    """values[..., i, :] * scales[..., i, :] approximates row i."""

    values: Tensor  # (..., rows, columns) float8_e4m3fn
    scales: Tensor  # (..., rows, 1) float32, positive


def quantize_rows(x: Tensor) -> Float8Rows:
    """Round each row of x (..., rows, columns) to e4m3, its largest value to the largest number.

    Rounding is to nearest, ties to even, as `torch` and the GPU's conversion do.
    """
    wide = x.float()
    largest = wide.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST)
    scales = largest / E4M3_MAX
    # The quotient may exceed the largest number by a rounding error, which some versions of torch
    # convert to NaN instead of to the largest number.
    values = (wide / scales).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return Float8Rows(values, scales)


def float8_product(
    rows: Float8Rows, weight: Float8Rows, *, bias: Tensor | None = None, native: bool = False
) -> Tensor:
    """rows (M, in) times the transpose of weight (out, in), and bias -> bfloat16 (M, out).

    bias: (out,) bfloat16; it is added before the result is rounded. native: by `torch._scaled_mm`,
    which needs an SM 89 on GPUs; otherwise in float32.
    """
    if native:
        missing = -len(rows.values) % _row_multiple(rows.values.device)
        if missing:
            padded = float8_product(_padded(rows, missing), weight, bias=bias, native=True)
            return padded[: len(rows.values)]
        if bias is not None and not _adds_bias(rows.values.device):
            return _scaled_product(rows, weight, None) + bias
        return _scaled_product(rows, weight, bias)
    with torch.autocast(rows.values.device.type, enabled=False):  # float16 would overflow
        sums = rows.values.float() @ weight.values.float().t()
        sums = sums * rows.scales * weight.scales.t()
    return (sums if bias is None else sums + bias.float()).to(torch.bfloat16)


class Float8Linear(nn.Module):
    """A linear layer with e4m3 operands, in place of an `nn.Linear`.

    The result has the type of the input; the bias is added to it after the product. With the layer
    it replaces at hand (`plain`), `active` decides which of the two computes: prompts may be in fp8
    and decode steps in half precision (`in_float8`).
    """

    values: Tensor  # (out, in) float8_e4m3fn
    scales: Tensor  # (out, 1) float32
    bias: Tensor | None  # (out,)

    def __init__(self, linear: nn.Linear, *, keep_plain: bool = False) -> None:
        """keep_plain: keep `linear` beside the rounded weights, twice their bytes."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = quantize_rows(linear.weight.detach())
        bias: Tensor | None = linear.bias  # torch declares it without the None
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("bias", bias if bias is None else bias.detach())
        self.plain = linear if keep_plain else None
        self.native: bool | None = None  # None: where the device has such products
        self.active = True

    @property
    def rounded_weight(self) -> Float8Rows:
        """The rounded weights with a scale for each output channel."""
        return Float8Rows(self.values, self.scales)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out), of the type of x."""
        if self.plain is not None and not self.active:
            return cast(Tensor, self.plain(x))
        rows = quantize_rows(x.reshape(-1, self.in_features))
        return self.of_rows(rows, x.dtype).reshape(*x.shape[:-1], self.out_features)

    def of_rows(self, rows: Float8Rows, dtype: torch.dtype) -> Tensor:
        """Rows (M, in) that were rounded before, for example by the norm -> (M, out) in `dtype`."""
        native = has_float8_products(rows.values.device) if self.native is None else self.native
        y = float8_product(rows, self.rounded_weight, native=native).to(dtype)
        return y if self.bias is None else y + self.bias.to(dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float8Linear:
        """Moves to another device, as of any module; `.half()` leaves rounded weights alone."""
        values, scales = self.values, self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.values, self.scales = values.to(self.values.device), scales.to(self.scales.device)
        return self

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, e4m3"


def to_float8(
    module: nn.Module,
    which: Callable[[str], bool] = lambda name: True,
    *,
    keep_plain: Callable[[str], bool] = lambda name: False,
) -> tuple[str, ...]:
    """Replace linear layers inside `module` by `Float8Linear`; returns the names of those replaced.

    which: says by its name in `module` whether a layer is replaced. keep_plain: whether the layer
    stays beside it, for phases that are not in fp8. Layers whose sizes the GPU's kernel does not
    take, and subclasses of `nn.Linear`, whose owners read their weights themselves, stay.
    """
    replaced = []
    for name, inner in list(module.named_modules()):
        if type(inner) is not nn.Linear or not which(name):
            continue
        if not fits_float8(inner.weight):
            continue
        parent, _, attribute = name.rpartition(".")
        layer = Float8Linear(inner, keep_plain=keep_plain(name)).eval()
        setattr(module.get_submodule(parent), attribute, layer)
        replaced.append(name)
    return tuple(replaced)


@contextmanager
def in_float8(module: nn.Module, active: bool) -> Iterator[None]:
    """Inside the context, layers that kept their plain form compute in fp8, or do not.

    Phases differ by who calls, never by how many rows there are: a row's result would depend on
    its batch.
    """
    layers = [inner for inner in module.modules() if isinstance(inner, Float8Linear)]
    before = [layer.active for layer in layers]
    for layer in layers:
        layer.active = active
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.active = value


def float8_refusal(device: torch.device) -> str | None:
    """Why fp8 is not to be used on `device`, or None if it has e4m3 products."""
    if device.type != "cuda":
        return f"{device.type} has no fp8 products"
    capability = torch.cuda.get_device_capability(device)
    if 10 * capability[0] + capability[1] < FLOAT8_SM:
        name = torch.cuda.get_device_name(device)
        return f"{name} is SM {capability[0]}{capability[1]}; fp8 products begin with SM 89"
    return None


def require_float8(device: torch.device) -> None:
    """Raises AltogetherError if `device` has no e4m3 products."""
    refusal = float8_refusal(device)
    if refusal is not None:
        raise AltogetherError(f"fp8 cannot be used here ({refusal}): use float16.")


def has_float8_products(device: torch.device) -> bool:
    """Whether `torch._scaled_mm` multiplies e4m3 numbers there on units made for it."""
    return device.type == "cuda" and float8_refusal(device) is None


def fits_float8(weight: Tensor) -> bool:
    """Whether a weight (out, in) has sizes that the GPU's kernel takes."""
    return not any(size % _MULTIPLE for size in weight.shape)


def _scaled_product(rows: Float8Rows, weight: Float8Rows, bias: Tensor | None) -> Tensor:
    product: Tensor = torch._scaled_mm(
        rows.values,
        weight.values.t(),
        scale_a=rows.scales,
        scale_b=weight.scales.t().contiguous(),
        bias=bias,
        out_dtype=torch.bfloat16,
    )
    return product


def _padded(rows: Float8Rows, missing: int) -> Float8Rows:
    values = F.pad(rows.values.view(torch.uint8), (0, 0, 0, missing))  # a byte of zeros is 0.0
    return Float8Rows(
        values.view(rows.values.dtype), F.pad(rows.scales, (0, 0, 0, missing), value=1.0)
    )


@functools.cache
def _row_multiple(device: torch.device) -> int:
    """Rows are padded to a multiple of this, if the device refuses other numbers of them."""
    weight = quantize_rows(torch.ones(_TRIED_SIDE, _TRIED_SIDE, device=device))
    try:
        for count in _TRIED_ROWS:
            rows = quantize_rows(torch.ones(count, _TRIED_SIDE, device=device))
            if not bool((_scaled_product(rows, weight, None) == _TRIED_SIDE).all()):
                raise RuntimeError(f"a product of {count} rows is wrong")
    except (RuntimeError, ValueError) as error:
        _LOG.warning("rows of products in fp8 are padded: %s", reason(error, 200))
        return _MULTIPLE
    return 1


@functools.cache
def _adds_bias(device: torch.device) -> bool:
    """Whether the product with a scale a row adds a bias here; if not, it is added after it."""
    try:
        rows = quantize_rows(torch.ones(16, 32, device=device))
        bias = torch.full((16,), 2.0, device=device, dtype=torch.bfloat16)
        return bool((_scaled_product(rows, rows, bias) == 34).all())
    except (RuntimeError, ValueError) as error:
        _LOG.warning("biases are added after products in fp8: %s", reason(error, 200))
        return False
