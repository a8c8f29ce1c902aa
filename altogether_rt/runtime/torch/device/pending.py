"""The tokens that a step has chosen, which may still be computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.runtime.base import UNDECIDED, Sampling, StepResult
from altogether_rt.runtime.pipelined import ChosenTokens
from altogether_rt.runtime.torch.device.api import TorchDevice
from altogether_rt.runtime.torch.device.arrays import ArrayContext, TorchArray
from altogether_rt.runtime.torch.device.sampling import sample

__all__ = ["ChosenIds", "DevicePendingStep"]


class ChosenIds:
    """Which ids of an earlier step a step takes, and where they go."""

    def __init__(self, chosen: ChosenTokens) -> None:
        assert isinstance(chosen.step, DevicePendingStep)
        self.ids = chosen.step.next_ids
        self.index: NDArray[np.int64] = chosen.index
        self.choices: NDArray[np.int64] = chosen.choices


class DevicePendingStep:
    """Implements `PendingStep`. It owns what it holds: later steps overwrite none of it."""

    def __init__(
        self,
        context: ArrayContext,
        stream: Any,
        greedy_ids: Tensor,
        logits: Tensor,
        sampling: Sampling | None,
    ) -> None:
        """greedy_ids (L,), logits (L, vocab): on `stream`, which is in use, and which may overwrite
        them from now on. sampling: what tokens are drawn with; None: all are greedy.
        """
        device = context.device
        self._logits: TorchArray | None = None
        if sampling is None:
            self.next_ids = greedy_ids.to(torch.int32)  # (L,) what a step after it may bring
            self._ids = device.download(greedy_ids[None], stream)
            return
        drawn_with = _upload(sampling, device)
        sampled = sample(logits, *drawn_with)
        self.next_ids = sampled.clamp(min=0).to(torch.int32)  # of undecided ones any token
        self._ids = device.download(torch.stack([greedy_ids, sampled]), stream)
        self._logits = TorchArray.computed(context, logits.clone(), stream)

    def result(self) -> StepResult:
        """Wait for the ids. Logits come only of tokens that are undecided; other rows are zero."""
        ids = self._ids.array()
        if self._logits is None:
            return StepResult(ids[0])
        undecided = np.flatnonzero(ids[1] == UNDECIDED)
        logits = _rows(self._logits, undecided) if undecided.size else None
        return StepResult(ids[0], logits, ids[1])


def _upload(sampling: Sampling, device: TorchDevice) -> Tensor:
    """(3, L) float64."""
    return device.upload(np.stack([sampling.uniforms, sampling.temperatures, sampling.top_ps]))


@torch.inference_mode()
def _rows(logits: TorchArray, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """The rows of an array at `index`, zeros elsewhere; a step behind it is not waited for."""
    found = np.zeros(logits.shape, np.float32)
    found[index] = np.asarray(logits.stack([logits[int(row)] for row in index]))
    return found
