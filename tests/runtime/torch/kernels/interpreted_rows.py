"""Norms and activations of rows in Triton's interpreter, against the same in plain PyTorch.

`test_kernels.py` runs this file in a process of its own, with `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from altogether_rt.runtime.torch.float8 import Float8Rows
from altogether_rt.runtime.torch.kernels import plain_rows, rows
from altogether_rt.runtime.torch.kernels.choice_of_rows import (
    PLAIN_ROWS,
    RowShapes,
    row_kernel_failure,
    triton_row_kernels,
)
from altogether_rt.runtime.torch.kernels.plain_rows import Activation, NormWeights

#: Widths of a power of two, of none, and of one number more than a power of two.
WIDTHS = (64, 80, 33)
KINDS: tuple[Activation, ...] = ("none", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu")
#: A rounding of each type; of bfloat16 two, since the interpreter cuts off where a GPU rounds.
ROUNDING = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 1.6e-2}


def norm_of(width: int, rms: bool) -> NormWeights:
    shift = None if rms else torch.randn(width)
    return NormWeights(1 + 0.1 * torch.randn(width), shift, 1e-5, rms)


def same_rows(found: Tensor | Float8Rows, wanted: Tensor | Float8Rows) -> None:
    """The same rows in fp8, but for what the interpreter rounds wrongly.

    In Triton 3.9 it loses the carry where a number is rounded up to a power of two. Otherwise a
    value near a tie may differ by one step, which is an eighth of it.
    """
    assert isinstance(found, Float8Rows) and isinstance(wanted, Float8Rows)
    assert found.values.dtype == torch.float8_e4m3fn and found.scales.shape == (
        len(found.values),
        1,
    )
    torch.testing.assert_close(found.scales, wanted.scales, rtol=2e-6, atol=0)
    one, other = found.values.float(), wanted.values.float()
    carried = other.abs().frexp().mantissa == 0.5
    different = (one != other) & ~carried
    assert different.float().mean() < 0.02
    torch.testing.assert_close(
        torch.where(carried, 0, one), torch.where(carried, 0, other), rtol=0.13, atol=2**-9
    )


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_add_and_norm(width: int, rms: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(width)
    x, residual = (3 + 2 * torch.randn(5, width)).to(dtype), torch.randn(5, width).to(dtype)
    norm = norm_of(width, rms)
    for given in (residual, None):
        total, normed = rows.add_norm(x, given, norm)
        sums, wanted = plain_rows.add_norm(x, given, norm)
        assert isinstance(normed, Tensor) and isinstance(wanted, Tensor)
        assert (total.dtype, normed.dtype) == (dtype, dtype)
        assert (total is x) == (given is None)
        torch.testing.assert_close(total, sums, rtol=ROUNDING[dtype], atol=0)
        bound = ROUNDING[dtype]
        torch.testing.assert_close(normed, wanted, rtol=2 * bound, atol=2 * bound)


def test_a_product_of_fp8_is_added_to_a_residual_of_another_type() -> None:
    x, residual = torch.randn(4, 48).bfloat16(), torch.randn(4, 48).half()
    norm = norm_of(48, rms=False)
    total, _ = rows.add_norm(x, residual, norm)
    assert total.dtype == torch.float16
    torch.testing.assert_close(total, (x.float() + residual.float()).half(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_norm_in_fp8(width: int, rms: bool) -> None:
    torch.manual_seed(width)
    x, residual = torch.randn(6, width).half(), torch.randn(6, width).half()
    x[2], residual[2] = 0, 0
    x[3] *= 1000
    norm = norm_of(width, rms)
    total, found = rows.add_norm(x, residual, norm, float8=True)
    sums, wanted = plain_rows.add_norm(x, residual, norm, float8=True)
    torch.testing.assert_close(total, sums, rtol=1e-3, atol=0)
    same_rows(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gated", [False, True])
def test_activations(kind: Activation, gated: bool) -> None:
    torch.manual_seed(0)
    x = 4 * torch.randn(5, 2 * 80 if gated else 80)
    x[0, :4] = torch.tensor([0.0, -60.0, 60.0, 1e4])  # where exponentials overflow
    for dtype, bound in ROUNDING.items():
        given = x.to(dtype)
        found = rows.activate(given, kind, gated=gated)
        wanted = plain_rows.activate(given, kind, gated=gated)
        assert isinstance(found, Tensor) and isinstance(wanted, Tensor)
        assert found.dtype == dtype and found.shape == (5, 80)
        torch.testing.assert_close(found, wanted, rtol=bound, atol=1e-5)
    given = x[1:].bfloat16()
    same_rows(
        rows.activate(given, kind, gated=gated, float8=True),
        plain_rows.activate(given, kind, gated=gated, float8=True),
    )


def test_rows_that_are_not_side_by_side_in_memory() -> None:
    x = torch.randn(4, 3, 32)[:, 1]
    norm = norm_of(32, rms=False)
    found, wanted = rows.add_norm(x, x, norm)[1], plain_rows.add_norm(x, x, norm)[1]
    assert isinstance(found, Tensor) and isinstance(wanted, Tensor)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows.activate(x, "silu"), plain_rows.activate(x, "silu"))


def test_a_row_of_any_length_has_warps() -> None:
    assert [rows.row_warps(width) for width in (12, 512, 1280, 2048, 5120, 8192, 20000)] == [
        1, 1, 4, 4, 16, 16, 16,
    ]  # fmt: skip


def test_the_kernels_are_tried_before_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    shapes = RowShapes(norms=((48, False), (33, True)), activations=((40, "gelu", False),))
    kernels = triton_row_kernels()
    assert row_kernel_failure(kernels, device, torch.float16, shapes) is None
    assert row_kernel_failure(PLAIN_ROWS, device, torch.float16, shapes, float8=True) is None

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("ptxas is missing")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "activate_kernel", {(2,): broken})
        why = row_kernel_failure(kernels, device, torch.float16, shapes)
    assert why is not None and "ptxas is missing" in why
    with monkeypatch.context() as patch:  # a kernel that runs, and writes nothing
        patch.setattr(rows, "add_norm_kernel", {(2,): lambda *_, **__: None})
        patch.setattr(
            rows, "_empty", lambda count, width, like, _: (like.new_zeros(count, width), None)
        )
        why = row_kernel_failure(kernels, device, torch.float16, shapes)
    assert why is not None and "other numbers" in why
