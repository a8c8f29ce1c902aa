"""The arithmetic of a GPU's paths on a CPU: float16, fp8 products, a cache of one byte a number.

torch's float16 kernels for CPUs add in float32 and round once, as a GPU's do, and so does
`HalfLinear`, which is quicker; fp8 products are those of `runtime.torch.float8` in their plain
form. Only the order of sums differs from a GPU, and how many bits its fp8 accumulator holds.

The plain runtime in fp8 rounds otherwise than the device path, which is therefore listed by itself.
There norms and activations are rounded to fp8 from float32, not from float16; a product adds its
bias before it is rounded to bfloat16; prompts' queries, keys and values stay bfloat16 until the
cache keeps them; and the mapper's first layer is in float16.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from altogether_rt.captioner import Captioner
from altogether_rt.config import CaptionerConfig
from altogether_rt.export.calibration.observe import Calibration
from altogether_rt.export.float8 import check_float8, convert_to_float8, smooth_model
from altogether_rt.export.recipes import Threshold
from altogether_rt.export.verify import Recording, compare
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Runtime, StepBatch, StepResult
from altogether_rt.runtime.torch.device.api import HostDevice
from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
from altogether_rt.runtime.torch.float8 import Float8Products
from altogether_rt.runtime.torch.float8_runtime import Float8Runtime
from altogether_rt.runtime.torch.kernels.slots import CacheType, round_as_kept

__all__ = [
    "ARITHMETICS",
    "Arithmetic",
    "EmulatedRuntime",
    "captions_of",
    "open_runtime",
    "parity_of",
]


@dataclass(frozen=True)
class Arithmetic:
    """What a path computes in."""

    name: str
    half: bool = True  # weights and values between operations in float16
    float8: Float8Products = "none"
    cache: CacheType = "same"
    on_device: bool = False  # by the device path itself, run on the CPU


ARITHMETICS = (
    Arithmetic("float32", half=False),
    Arithmetic("float16"),
    Arithmetic("fp8, decode in float16", float8="prompts"),
    Arithmetic("fp8 throughout", float8="all"),
    Arithmetic("float16, fp8 cache", cache="float8"),
    Arithmetic("float16, int8 cache", cache="int8"),
    Arithmetic("fp8 throughout, fp8 cache", float8="all", cache="float8"),
    Arithmetic("device path, float16", on_device=True),
    Arithmetic("device path, float16, int8 cache", cache="int8", on_device=True),
    Arithmetic("device path, fp8", float8="prompts", on_device=True),
    Arithmetic(
        "device path, fp8 throughout, int8 cache", float8="all", cache="int8", on_device=True
    ),
)


class HalfLinear(nn.Module):
    """A float16 linear layer on the CPU's float32 kernels: products and sums of float16 numbers in
    float32, with the bias, rounded once, as the kernels of CPUs and GPUs do."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach().float()
        bias: torch.Tensor | None = linear.bias  # torch declares it without the None
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x.float(), self.weight, None if self.bias is None else self.bias.float())
        return y.half()


def _widen_products(module: nn.Module) -> None:
    for name, inner in list(module.named_modules()):
        if type(inner) is nn.Linear:
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, HalfLinear(inner))


class EmulatedRuntime(Float8Runtime):
    """torch on the CPU in the arithmetic of a GPU."""

    def __init__(
        self,
        model: CaptionerModel,
        arithmetic: Arithmetic,
        calibration: Calibration,
        *,
        num_slots: int,
    ) -> None:
        """model: float32; it is copied. calibration: its ranges, by which fp8 smooths outliers."""
        model = copy.deepcopy(model)
        if arithmetic.float8 != "none":
            smooth_model(model, calibration)
        if arithmetic.half:
            model = model.half()
        if arithmetic.float8 != "none":
            convert_to_float8(model, decode=arithmetic.float8 == "all")
        if arithmetic.half:
            for part in (model.mapper, model.decoder):
                _widen_products(part)
        self._arithmetic = arithmetic
        self._encoded: dict[bytes, NDArray[np.float32]] = {}  # by image: it is captioned twice
        super().__init__(model, num_slots=num_slots)

    @torch.inference_mode()
    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Runtime.encode`; with the encoder's weights in half precision too."""
        keys = [image.tobytes() for image in pixels]
        if new := [index for index, key in enumerate(keys) if key not in self._encoded]:
            found = self.model.encode(torch.from_numpy(pixels[new])).float().numpy()
            self._encoded.update(zip((keys[index] for index in new), found, strict=True))
        return np.stack([self._encoded[key] for key in keys])

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """See `Runtime.step`.

        Tokens of one step attend to each other before they are stored, and are read back rounded by
        the steps that follow, as kernels do that have them in registers.
        """
        result = super().step(batch, want_logits)
        if self._arithmetic.cache != "same":
            self._round_cache(batch, self._arithmetic.cache)
        return result

    def _round_cache(self, batch: StepBatch, kind: CacheType) -> None:
        for slot, (new, past) in enumerate(
            zip(batch.query_lengths.tolist(), batch.past_lengths.tolist(), strict=True)
        ):
            for part in (self.cache.keys, self.cache.values):
                written = part[:, slot, :, past : past + new]
                written.copy_(round_as_kept(written, kind))


def open_runtime(
    model: CaptionerModel, arithmetic: Arithmetic, calibration: Calibration, *, num_slots: int
) -> Runtime:
    """`model`, float32, in `arithmetic`; it is copied. calibration: as for `EmulatedRuntime`."""
    if not arithmetic.on_device:
        return EmulatedRuntime(model, arithmetic, calibration, num_slots=num_slots)
    model = copy.deepcopy(model)
    if arithmetic.float8 != "none":
        smooth_model(model, calibration)
    return DeviceTorchRuntime(
        model,
        HostDevice(),
        num_slots=num_slots,
        dtype=torch.float16,
        kept=arithmetic.cache,
        float8=arithmetic.float8,
    )


def parity_of(
    runtime: Runtime,
    recording: Recording,
    arithmetic: Arithmetic,
    thresholds: Mapping[str, Threshold],
) -> dict[str, Any]:
    """Agreement with float32 by stage. Raises ParityError where fp8 misses its recipe's bar."""
    if arithmetic.float8 != "none":
        return check_float8(recording, runtime, thresholds)
    return {
        stage: {
            "mean_cosine": agreement.mean_cosine,
            "worst_cosine": agreement.worst_cosine,
            "kl": agreement.kl,
            "greedy": agreement.greedy,
        }
        for stage, agreement in compare(recording, runtime).items()
    }


def captions_of(
    runtime: Runtime,
    config: CaptionerConfig,
    tokenizer: PromptTokenizer,
    images: Sequence[Any],
    alts: Sequence[Sequence[str]] | None,
) -> list[str]:
    """Greedy captions, one for each image."""
    parts = CaptionerParts(config, runtime, tokenizer, "emulated", None)
    captioner = Captioner(parts, speculation="off")
    written = captioner.caption(images) if alts is None else captioner.caption(images, alts)
    return [caption.text for caption in written]
