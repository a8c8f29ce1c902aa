"""altogether-rt with PyTorch in other ways than `ours`: its reference backend, and the device path
below half precision.

options: as of `ours`, with a checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.opening import CaptionerParts
from altogether_rt.preprocess.prompts import PromptTokenizer
from harness.adapter import Unavailable
from harness.adapters.ours import MAX_BATCH, Ours

__all__ = ["PlainTorch", "Reduced"]


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


class Reduced(Ours):
    """The device path below half precision. float8: `none`, products of encoder, mapper and
    prompts, or `all` (see `Float8Products`), outliers smoothed; kept: how the cache keeps keys and
    values. What a user gets so is compared with float32 before; here that is `check`."""

    def prepare(self, options: dict[str, Any]) -> None:
        super().prepare(options)
        if options["device"] != "cuda" or options["float8"] == "none":
            return
        import torch

        from altogether_rt.runtime.torch.float8 import float8_refusal

        refusal = float8_refusal(torch.device("cuda", 0))
        if refusal is not None:
            raise Unavailable(refusal)

    def open(self, options: dict[str, Any], threads: int | None) -> CaptionerParts:
        import torch

        from altogether_rt.export.float8 import observed, smooth_model
        from altogether_rt.export.samples import draw_samples
        from altogether_rt.runtime.torch.device.api import CudaDevice, HostDevice
        from altogether_rt.runtime.torch.device.runtime import DeviceTorchRuntime
        from altogether_rt.runtime.torch.kernels.choice import kernel_failure
        from altogether_rt.runtime.torch.kernels.slots import HeadLayout

        if threads is not None:
            torch.set_num_threads(threads)
        on_gpu, dtype = options["device"] == "cuda", getattr(torch, options["dtype"])
        checkpoint = Checkpoint.load(Path(options["checkpoint"]))
        model, config = checkpoint.captioner(), checkpoint.config
        parts = _parts(checkpoint, None)
        if on_gpu:
            heads = HeadLayout.of(config.decoder)
            failure = kernel_failure(torch.device("cuda", 0), dtype, heads, options["kept"])
            if failure is not None:
                raise RuntimeError(f"Triton's kernels do not run: {failure}")
        if options["float8"] != "none":
            samples = draw_samples(config, parts.tokenizer)
            _, calibration = observed(model, samples, device=options["device"])
            smooth_model(model, calibration)
        runtime = DeviceTorchRuntime(
            model,
            CudaDevice(0) if on_gpu else HostDevice(),
            num_slots=options.get("slots", MAX_BATCH),
            dtype=dtype,
            kept=options["kept"],
            float8=options["float8"],
        )
        return _parts(checkpoint, runtime)

    def check(self) -> dict[str, Any]:
        """Its parity; a figure below the recipe's bar is an error, so that it is not measured."""
        from altogether_rt.export.recipes import find_recipe

        figures = super().check()
        bars = find_recipe("tensorrt-fp8").parity
        for stage, figure in figures.get("parity", {}).items():
            if not figure["mean_cosine"] >= bars[stage].mean:
                raise RuntimeError(
                    f"the {stage} has a cosine of {figure['mean_cosine']:.5f} with float32, and "
                    f"{bars[stage].mean} is required"
                )
        return figures


def _parts(checkpoint: Checkpoint, runtime: Any) -> CaptionerParts:
    config = checkpoint.config
    tokenizer = PromptTokenizer.of_captioner(checkpoint.tokenizer_path, config)
    return CaptionerParts(config, runtime, tokenizer, "torch", None)
