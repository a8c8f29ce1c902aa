"""Opens a checkpoint below half precision, which is compared with float32 before use."""

from __future__ import annotations

from collections.abc import Mapping

from altogether_rt.errors import AltogetherError, reason
from altogether_rt.export.float8 import observed, smooth_model
from altogether_rt.export.recipes import Threshold, find_recipe
from altogether_rt.export.samples import draw_samples
from altogether_rt.export.verify import Agreement, Recording, compare
from altogether_rt.preprocess.prompts import PromptTokenizer
from altogether_rt.runtime.base import Runtime
from altogether_rt.runtime.torch.open import ResolvedCheckpoint

__all__ = ["open_compared"]

#: The recipe whose thresholds hold here too.
_RECIPE = "tensorrt-fp8"


def open_compared(
    checkpoint: ResolvedCheckpoint, *, threads: int | None = None, num_slots: int | None = None
) -> Runtime:
    """Read the weights and open `DeviceTorchRuntime` with products in fp8, a cache in 8 bits, or
    both; for fp8, outliers are smoothed by what drawn samples show.

    Arguments as for `ResolvedCheckpoint.open`. The same samples are then captioned so. Raises
    AltogetherError if a stage differs from float32 by more than the export recipe for fp8 allows,
    or if the kernels do not run on this GPU.
    """
    model = checkpoint.load_model(threads=threads)
    tokenizer = PromptTokenizer.of_captioner(checkpoint.tokenizer_path, checkpoint.config)
    samples = draw_samples(checkpoint.config, tokenizer)
    if num_slots is not None:
        samples = samples.first(num_slots)
    recording, calibration = observed(model, samples, checkpoint.torch_device)
    if checkpoint.arithmetic.float8 != "none":
        smooth_model(model, calibration)
    model.cpu()  # what is copied of it should not lie beside it in the GPU's memory
    runtime = checkpoint.open_model(model, num_slots=num_slots)
    try:
        _check(checkpoint, _compared(checkpoint, recording, runtime), find_recipe(_RECIPE).parity)
    except BaseException:
        runtime.close()
        raise
    return runtime


def _compared(
    checkpoint: ResolvedCheckpoint, recording: Recording, runtime: Runtime
) -> dict[str, Agreement]:
    try:
        return compare(recording, runtime)
    except RuntimeError as error:  # PyTorch's, of products that it does not have for this GPU
        raise AltogetherError(
            f"{checkpoint.arithmetic} cannot be used here, as it fails: {reason(error, 200)}"
        ) from error


def _check(
    checkpoint: ResolvedCheckpoint,
    agreements: Mapping[str, Agreement],
    thresholds: Mapping[str, Threshold],
) -> None:
    arithmetic = checkpoint.arithmetic
    for stage, found in agreements.items():
        required = thresholds[stage]
        if not found.has_cosines(required):
            raise AltogetherError(
                f"in {arithmetic} the {stage} of this checkpoint differs from float32: a cosine of "
                f"{found.mean_cosine:.4f} (worst row {found.worst_cosine:.4f}), where "
                f"{required.mean} ({required.worst}) is required: {arithmetic.instead()}."
            )
