"""fp8 products against the definition of e4m3, and against the operator that GPUs run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from altogether_rt.errors import AltogetherError
from altogether_rt.export.float8 import convert_to_float8
from altogether_rt.runtime.torch import float8
from altogether_rt.runtime.torch.device.api import HostDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.float8 import (
    E4M3_MAX,
    Float8Linear,
    float8_product,
    in_float8,
    quantize_rows,
    require_float8,
    to_float8,
)
from altogether_rt.runtime.torch.float8_runtime import Float8Runtime
from tests.tiny import IMAGE_SIZE, tiny_config, tiny_model


def e4m3_numbers() -> np.ndarray:
    """All finite numbers of the format: 4 bits of exponent with bias 7, 3 of mantissa, no
    infinity; the code 1111 111 is NaN."""
    numbers = [mantissa / 8 * 2.0**-6 for mantissa in range(8)]  # subnormal
    for exponent in range(1, 16):
        numbers += [(1 + mantissa / 8) * 2.0 ** (exponent - 7) for mantissa in range(8)]
    positive = np.array(numbers[:-1])
    return np.concatenate([-positive[:0:-1], positive])


def nearest(values: np.ndarray) -> np.ndarray:
    """The nearest number of the format; in a tie the one whose last bit is 0."""
    numbers = e4m3_numbers()
    even = np.arange(len(numbers)) - len(numbers) // 2  # codes count up from zero on both sides
    distance = np.abs(values[..., None] - numbers)
    tied = distance == distance.min(axis=-1, keepdims=True)
    return numbers[np.where(tied, np.abs(even) % 2, 2).argmin(axis=-1)]


def scales_a_row() -> bool:
    """Whether PyTorch has on the CPU what it has on GPUs; its versions before 2.12 do not."""
    rows = quantize_rows(torch.ones(16, 16))
    try:
        float8._scaled_product(rows, rows, None)
    except RuntimeError:
        return False
    return True


needs_scales_a_row = pytest.mark.skipif(
    not scales_a_row(), reason="torch._scaled_mm on this CPU takes no scale a row"
)


def linear(rows: int = 32, columns: int = 64, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(columns, rows, bias=bias)


def test_values_are_the_nearest_of_the_format() -> None:
    x = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    rows = quantize_rows(torch.from_numpy(x))
    largest = np.abs(x).max(axis=1, keepdims=True)
    np.testing.assert_array_equal(rows.scales.numpy(), largest / np.float32(448))
    wanted = nearest((x / rows.scales.numpy()).astype(np.float64))
    np.testing.assert_array_equal(rows.values.float().numpy(), wanted)
    assert np.abs(wanted).max(axis=1).tolist() == [E4M3_MAX] * 5


def test_ties_go_to_even() -> None:
    # Between 16 and 18 is a step of 2, so 17 is a tie: 16 has the even mantissa. 19 goes to 20.
    x = torch.tensor([[448.0, 17.0, 19.0, -17.0, -19.0]])
    assert quantize_rows(x).values.float().tolist() == [[448.0, 16.0, 20.0, -16.0, -20.0]]


def test_a_row_of_zeros_stays_zero_and_large_rows_finite() -> None:
    x = torch.tensor([[0.0] * 16, [3e38] * 16, [1e-30] * 16])
    rows = quantize_rows(x)
    product = rows.values.float() * rows.scales
    assert product[0].tolist() == [0.0] * 16
    assert torch.isfinite(product).all()
    assert product[1, 0] == pytest.approx(3e38, rel=1e-6)


def test_the_product_is_the_one_of_the_rounded_values() -> None:
    layer = Float8Linear(linear())
    x = torch.randn(7, 64)
    rows, weight = quantize_rows(x), layer.rounded_weight
    a = rows.values.double().numpy() * rows.scales.double().numpy()
    b = weight.values.double().numpy() * weight.scales.double().numpy()
    found = float8_product(rows, weight)
    assert found.dtype == torch.bfloat16
    # bfloat16 has 8 significant bits: rounding costs 2**-8 of the value at most.
    np.testing.assert_allclose(found.double().numpy(), a @ b.T, rtol=2**-8 * 1.001, atol=1e-6)


@needs_scales_a_row
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_operator_that_gpus_run_gives_the_same(rows: int) -> None:
    """`torch._scaled_mm` on the CPU: the same call, with its layouts and scales."""
    layer, x = Float8Linear(linear()), torch.randn(rows, 64)
    plain, native = (
        float8_product(quantize_rows(x), layer.rounded_weight, native=native)
        for native in (False, True)
    )
    assert native.dtype == torch.bfloat16
    # Sums in another order may round to the neighbouring bfloat16.
    torch.testing.assert_close(native, plain, rtol=2**-7, atol=1e-5)
    assert (native == plain).float().mean() > 0.99


@needs_scales_a_row
@pytest.mark.parametrize("adds", [True, False])
def test_a_bias_is_part_of_the_product_or_added_after_it(
    adds: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scaled = torch._scaled_mm
    given: list[bool] = []

    def product(*arguments: Any, **options: Any) -> torch.Tensor:
        if options["bias"] is not None and not adds:
            raise RuntimeError("no bias with a scale a row")
        given.append(options["bias"] is not None)
        return scaled(*arguments, **options)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    float8._adds_bias.cache_clear()
    layer, x = Float8Linear(linear()), torch.randn(5, 64)
    bias = torch.randn(32).bfloat16()
    rows, weight = quantize_rows(x), layer.rounded_weight
    found = float8_product(rows, weight, bias=bias, native=True)
    float8._adds_bias.cache_clear()
    assert found.dtype == torch.bfloat16
    wanted = float8_product(rows, weight, bias=bias)
    torch.testing.assert_close(found, wanted, rtol=2**-6, atol=2**-8)
    assert given[-1] == adds
    assert ("no bias with a scale a row" in caplog.text) != adds


@pytest.mark.parametrize("refused", [True, False])
def test_few_rows_are_padded_where_they_are_refused(
    refused: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that multiplies whole blocks of 16 rows alone, and one that takes any number."""
    given: list[int] = []

    def product(
        values: torch.Tensor, weight: torch.Tensor, *, scale_a: torch.Tensor,
        scale_b: torch.Tensor, bias: torch.Tensor | None, out_dtype: torch.dtype,
    ) -> torch.Tensor:  # fmt: skip
        if refused and len(values) % 16:
            raise RuntimeError(f"{len(values)} rows are not supported")
        given.append(len(values))
        sums = values.float() @ weight.float() * scale_a * scale_b
        return (sums if bias is None else sums + bias.float()).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", product)
    layer, bias = Float8Linear(linear()), torch.randn(32).bfloat16()
    for cached in (float8._adds_bias, float8._row_multiple):
        cached.cache_clear()
    for count in (1, 5, 16, 21):
        rows = quantize_rows(torch.randn(count, 64))
        found = float8_product(rows, layer.rounded_weight, bias=bias, native=True)
        assert given[-1] == (-(-count // 16) * 16 if refused else count)
        torch.testing.assert_close(found, float8_product(rows, layer.rounded_weight, bias=bias))
    for cached in (float8._adds_bias, float8._row_multiple):
        cached.cache_clear()
    assert ("are padded: 1 rows are not supported" in caplog.text) == refused


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_layer_approximates_the_one_it_replaces(bias: bool, dtype: torch.dtype) -> None:
    plain = linear(bias=bias).to(dtype)
    x = torch.randn(2, 3, 64, dtype=dtype)
    found, wanted = Float8Linear(plain)(x), plain(x)
    assert found.shape == wanted.shape and found.dtype == dtype
    error = (found - wanted).float().norm() / wanted.float().norm()
    assert 0.001 < error < 0.05  # 3 bits of mantissa: it is rounded, and no more than that


def test_a_row_does_not_depend_on_its_batch() -> None:
    layer, x = Float8Linear(linear()), torch.randn(9, 64)
    x[3] *= 1000  # an outlier in one row must not cost the others their precision
    whole = layer(x)
    for row in (0, 3, 8):
        torch.testing.assert_close(layer(x[row : row + 1])[0], whole[row], rtol=2**-7, atol=1e-6)


def test_it_replaces_what_it_is_asked_to() -> None:
    model = tiny_model(tiny_config("opt"))
    names = to_float8(model.decoder, lambda name: name.endswith("fc1"))
    assert names == tuple(f"layers.{i}.fc1" for i in range(len(model.decoder.layers)))
    assert isinstance(model.decoder.get_submodule(names[0]), Float8Linear)
    assert type(model.decoder.get_submodule("layers.0.fc2")) is nn.Linear


def test_rounded_weights_keep_their_type_in_a_module_that_changes_its_own() -> None:
    model = nn.Sequential(linear(), nn.LayerNorm(32))
    to_float8(model)
    x = torch.randn(3, 64)
    wanted = model(x)
    layer = model.half()[0]
    assert isinstance(layer, Float8Linear)
    assert (layer.values.dtype, layer.scales.dtype) == (torch.float8_e4m3fn, torch.float32)
    assert layer.bias is not None and layer.bias.dtype == torch.float16
    assert model[1].weight.dtype == torch.float16
    torch.testing.assert_close(model(x.half()).float(), wanted, rtol=0.05, atol=0.05)
    meta = model.to("meta")[0]
    assert meta.values.device.type == meta.scales.device.type == "meta"


def test_the_device_path_takes_encoder_and_mapper_in_fp8() -> None:
    """The same embeddings and visual tokens as the reference backend with the same layers."""
    config = tiny_config("opt")
    shape = (2, IMAGE_SIZE, IMAGE_SIZE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = []
    for on_device in (True, False):
        model = tiny_model(config)
        names = convert_to_float8(model, decoder=False)
        assert any(name.startswith("mapper.") for name in names)
        assert not any(name.startswith("decoder.") for name in names)
        runtime: Any = (
            DeviceTorchRuntime(model, HostDevice(), num_slots=2, dtype=torch.float32)
            if on_device
            else Float8Runtime(model, num_slots=2)
        )
        with runtime:
            embeddings = runtime.encode(pixels)
            found.append((np.asarray(embeddings), np.asarray(runtime.map(embeddings))))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2**-7, atol=1e-5)


def test_sizes_that_the_kernel_refuses_stay() -> None:
    odd = nn.Sequential(linear(24, 64), linear(32, 40), linear(48, 32))
    assert to_float8(odd) == ("2",)


def test_phases_choose_between_the_two_forms() -> None:
    model = nn.Sequential(linear())
    wanted = model(x := torch.randn(4, 64))
    assert to_float8(model, keep_plain=lambda name: True) == ("0",)
    rounded = model(x)
    assert not torch.equal(rounded, wanted)
    with in_float8(model, False):
        assert torch.equal(model(x), wanted)
    assert torch.equal(model(x), rounded)


def test_a_device_without_such_products_is_refused() -> None:
    with pytest.raises(AltogetherError, match=r"cpu has no fp8 products\): use float16\.$"):
        require_float8(torch.device("cpu"))


def test_an_older_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX A6000")
    refusal = float8.float8_refusal(torch.device("cuda", 0))
    assert refusal == "RTX A6000 is SM 86; fp8 products begin with SM 89"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert float8.float8_refusal(torch.device("cuda", 0)) is None
