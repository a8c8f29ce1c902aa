"""The contract of backends that can begin a step before the result of the last one is known.

The caller then prepares the next step while the device computes, and hands it over before it has
read what the last one chose: tokens that it does not know yet are taken on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import Runtime, StepBatch, StepResult

__all__ = ["ChosenTokens", "PendingStep", "PipelinedRuntime", "as_pipelined"]


class PendingStep(Protocol):
    """A step that was begun. It may be dropped without asking for its result."""

    def result(self) -> StepResult:
        """Wait for it; call it once. The result owns its arrays.

        It has logits only where `sampled_ids` leaves tokens to the caller.
        """


@dataclass(frozen=True)
class ChosenTokens:
    """Packed tokens of a step that are choices of a step before, which may still be computed.

    What that step chooses is its drawn id where it brought a `Sampling`, its greedy id otherwise.
    Where its drawn id is `UNDECIDED`, the token is any: the row's result means nothing.
    """

    step: PendingStep  # the one that was begun last
    index: NDArray[np.int64]  # (C,) among the packed tokens, in rising order; C >= 1
    choices: NDArray[np.int64]  # (C,) which of that step's choices each of them is


class PipelinedRuntime(Runtime, Protocol):
    """A runtime that can begin a step before the result of the last one is known.

    Steps, whether begun or waited for, and `move_slot` take effect in the order of the calls.
    """

    def begin(self, batch: StepBatch, chosen: ChosenTokens | None = None) -> PendingStep:
        """`step` without waiting. `batch` may change once this has returned, but for its visual
        tokens, which nobody writes again.

        The ids at `chosen.index` are ignored: these tokens are what the step before has chosen.
        Where `batch.sampling` is given, tokens are drawn as it says.
        """


def as_pipelined(runtime: Runtime) -> PipelinedRuntime | None:
    """`runtime`, if it can begin steps without waiting for them."""
    return cast(PipelinedRuntime, runtime) if hasattr(runtime, "begin") else None
