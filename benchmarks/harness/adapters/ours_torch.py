"""altogether-rt's reference backend: torch as it is, and with fp8 products.

options: as of `ours`, with a checkpoint. The device path that a user gets is `ours`; these show
what it gains, and what fp8 products give by themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from harness.adapter import Unavailable
from harness.adapters.ours import MAX_BATCH, Ours

__all__ = ["Float8", "PlainTorch"]


class PlainTorch(Ours):
    """`TorchRuntime`: attention over whole slots, a captured graph a number of rows."""

    def open(self, options: dict[str, Any], threads: int | None) -> CaptionerParts:
        import torch

        from altogether_rt.runtime.torch.runtime import TorchRuntime

        if threads is not None:
            torch.set_num_threads(threads)
        checkpoint = Checkpoint.load(Path(options["checkpoint"]))
        runtime = TorchRuntime(
            checkpoint.captioner(),
            num_slots=options.get("slots", MAX_BATCH),
            device=options["device"],
            dtype=getattr(torch, options["dtype"]),
        )
        return _parts(checkpoint, runtime)


class Float8(Ours):
    """fp8 products of encoder, mapper and prompts, outliers smoothed, on the device path; where its
    kernels do not run, the reference backend's. Decode steps stay as they were."""

    def prepare(self, options: dict[str, Any]) -> None:
        super().prepare(options)
        if options["device"] != "cuda":
            return
        import torch

        from altogether_rt.runtime.torch.float8 import float8_refusal

        refusal = float8_refusal(torch.device("cuda", 0))
        if refusal is not None:
            raise Unavailable(refusal)

    def open(self, options: dict[str, Any], threads: int | None) -> CaptionerParts:
        import torch

        from altogether_rt.export.float8 import convert_to_float8, observed, smooth_model
        from altogether_rt.export.samples import draw_samples
        from altogether_rt.runtime.torch.device.api import CudaDevice
        from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
        from altogether_rt.runtime.torch.float8_runtime import Float8Runtime
        from altogether_rt.runtime.torch.kernels.choice import kernel_failure
        from altogether_rt.runtime.torch.kernels.slots import HeadLayout

        if threads is not None:
            torch.set_num_threads(threads)
        device, dtype = options["device"], getattr(torch, options["dtype"])
        checkpoint = Checkpoint.load(Path(options["checkpoint"]))
        model = checkpoint.captioner()
        parts = _parts(checkpoint, None)
        samples = draw_samples(checkpoint.config, parts.tokenizer)
        _, calibration = observed(model, samples, device=device)
        smooth_model(model, calibration)
        slots, heads = options.get("slots", MAX_BATCH), HeadLayout.of(checkpoint.config.decoder)
        if device == "cuda" and kernel_failure(torch.device(device, 0), dtype, heads) is None:
            fast = DeviceTorchRuntime(
                model, CudaDevice(0), num_slots=slots, dtype=dtype, float8=True
            )
            return _parts(checkpoint, fast)
        model.mapper.to(dtype)
        model.decoder.to(dtype)
        convert_to_float8(model)
        plain = Float8Runtime(model, num_slots=slots, device=device, dtype=dtype)
        return _parts(checkpoint, plain)

    def check(self) -> dict[str, Any]:
        """Its parity; a figure below the recipe's bar is an error, so that it is not measured."""
        from altogether_rt.export.recipes import find_recipe

        figures = super().check()
        bars = find_recipe("tensorrt-fp8").parity
        for stage, figure in figures.get("parity", {}).items():
            if not figure["mean_cosine"] >= bars[stage].mean:
                raise RuntimeError(
                    f"the {stage} has a cosine of {figure['mean_cosine']:.5f} with float32, and "
                    f"fp8 requires {bars[stage].mean}"
                )
        return figures


def _parts(checkpoint: Checkpoint, runtime: Any) -> CaptionerParts:
    config = checkpoint.config
    tokenizer = PromptTokenizer.of_captioner(checkpoint.tokenizer_path, config)
    return CaptionerParts(config, runtime, tokenizer, "torch", None)
