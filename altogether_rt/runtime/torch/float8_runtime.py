"""`TorchRuntime` with linear layers in fp8, in the phases that they are for."""

from __future__ import annotations

from altogether_rt.runtime.base import StepBatch, StepResult
from altogether_rt.runtime.torch.float8 import in_float8
from altogether_rt.runtime.torch.runtime import TorchRuntime

__all__ = ["Float8Runtime"]


class Float8Runtime(TorchRuntime):
    """The reference backend over a model that `export.float8.convert_to_float8` has changed.

    Encoder, mapper and steps that bring prompts are in fp8, with all rows of such a step; decode
    and verify steps are where the decoder kept no plain form of its layers.
    """

    def step(self, batch: StepBatch, want_logits: bool = False) -> StepResult:
        """See `Runtime.step`."""
        with in_float8(self.model.decoder, len(batch.visual_index) > 0):
            return super().step(batch, want_logits)
