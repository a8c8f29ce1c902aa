"""Decoder calls of one kind: a batch of prompts, or one more token for each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from altogether_rt.runtime.base import Array, StepBatch, StepRow

__all__ = ["decode_batch", "prefill_batch"]


def prefill_batch(
    visual_tokens: Array,
    prompts: Sequence[Sequence[int]],
    *,
    after_each_token: bool = False,
    before_ids: Sequence[int] = (),
) -> StepBatch:
    """The call that reads whole prompts.

    visual_tokens: (B, P, W). prompts: B lists of the token ids that follow them.
    after_each_token: choose a next token after the last visual token and after each text token of
    a prompt, instead of only after its last token. before_ids: before the visual tokens of each.
    """
    return StepBatch.from_rows(
        (
            StepRow(ids, 0, visual, 1 + len(ids) if after_each_token else 1, before_ids)
            for visual, ids in zip(visual_tokens, prompts, strict=True)
        ),
        visual_tokens.shape[-1],
    )


def decode_batch(
    token_ids: Sequence[int] | NDArray[np.integer],
    past_lengths: Sequence[int] | NDArray[np.integer],
    token_width: int,
) -> StepBatch:
    """The call that brings each of B rows one more token.

    token_ids: (B,). past_lengths: (B,), tokens already in each row's slot.
    """
    return StepBatch.of_tokens(token_ids, past_lengths, token_width)
