"""Steps of few rows with draft tokens, captured as CUDA graphs.

What is launched one by one takes longer than a captured step of one token a row, so that drafts
would hardly ever save time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from altogether_rt.config import MAX_DRAFT_TOKENS
from altogether_rt.runtime.base import StepBatch
from altogether_rt.runtime.torch.device.api import TorchDevice
from altogether_rt.runtime.torch.device.decode_graphs import IDLE, Bucket, captured_or_none
from altogether_rt.runtime.torch.kernels.slots import HeadLayout, RaggedRows, token_bucket

__all__ = ["VerifyGraphs"]

#: Rows of a graph.
_ROWS = (1, 2, 4, 8, 16)
#: Tokens of each row.
_TOKENS = (4, 1 + MAX_DRAFT_TOKENS)
#: Tokens of all rows: products of so few take as long as reading the weights, padded or not. With
#: more of them, those that pad cost more than launching what they spare.
_MAX_TOKENS = 64

#: step(token ids (R · K,), positions (R · K,), rows) -> logits (R · K, vocab).
Step = Callable[[Tensor, Tensor, RaggedRows], Tensor]


class VerifyGraphs:
    """Runs verify steps padded to a bucket of rows and tokens; what pads them writes nothing."""

    def __init__(
        self,
        device: TorchDevice,
        stream: Any,
        num_slots: int,
        vocab_size: int,
        dtype: torch.dtype,
        step: Step,
        heads: HeadLayout,
    ) -> None:
        """heads: of the decoder, whose kernel takes so many tokens of a row."""
        self._device, self._stream, self._step = device, stream, step
        self._vocab_size, self._dtype = vocab_size, dtype
        self._rows = [rows for rows in _ROWS if rows <= num_slots]
        self._tokens = [tokens for tokens in _TOKENS if token_bucket(tokens, heads) is not None]
        self._buckets: dict[tuple[int, int], Bucket] = {}  # by rows and tokens

    @property
    def num_captured(self) -> int:
        return len(self._buckets)

    def capture(self) -> None:
        """Capture all buckets, on the decoder's stream, which is in use; see `DecodeGraphs`."""
        sizes = [(rows, tokens) for rows in self._rows for tokens in self._tokens]
        for rows, tokens in sorted(sizes, key=math.prod, reverse=True):
            if rows * tokens > _MAX_TOKENS:
                continue
            bucket = self._new_bucket(rows, tokens)
            bucket.inputs[-2 * rows : -rows], bucket.inputs[-rows:] = 1, IDLE
            run = functools.partial(self._run, bucket, rows, tokens)
            bucket.replay = captured_or_none(self._device, run, self._stream)
            if bucket.replay is None:
                return
            self._buckets[rows, tokens] = bucket

    def fits(self, batch: StepBatch) -> bool:
        """Whether `batch` is a step of rows that follow cached tokens, with a graph for it."""
        counts = batch.query_lengths
        follows = not batch.visual_index.size and bool((batch.past_lengths > 0).all())
        return follows and self._size(len(counts), int(counts.max())) in self._buckets

    def run(self, batch: StepBatch) -> tuple[Tensor, Tensor]:
        """Greedy ids (L,) and logits (L, vocab) of the tokens that are asked for.

        On the decoder's stream, which is in use.
        """
        counts, past = batch.query_lengths, batch.past_lengths
        rows, tokens = self._size(len(counts), int(counts.max()))
        slots = np.repeat(np.arange(len(counts)), counts)  # (T,)
        within = np.arange(len(slots)) - (np.cumsum(counts) - counts)[slots]
        at = slots * tokens + within  # of each packed token among the padded ones
        host = np.zeros(2 * rows * (tokens + 1), np.int32)
        host[at] = batch.token_ids
        host[rows * tokens + at] = within + past[slots]
        host[-2 * rows : -rows], host[-rows:] = 1, IDLE  # rows that pad have a token of their own
        host[-2 * rows :][: len(counts)], host[-rows:][: len(past)] = counts, past
        bucket = self._buckets[rows, tokens]
        bucket.inputs.copy_(self._device.upload(host), non_blocking=True)
        assert bucket.replay is not None
        bucket.replay()
        wanted = self._device.upload(at[batch.logit_index])
        return bucket.greedy_ids[wanted], bucket.logits[wanted]

    def _size(self, rows: int, tokens: int) -> tuple[int, int]:
        """The smallest bucket that holds so many; (0, 0) if there is none."""
        fitting = [each for each in self._rows if each >= rows]
        long = [each for each in self._tokens if each >= tokens]
        return (fitting[0], long[0]) if fitting and long else (0, 0)

    def _run(self, bucket: Bucket, rows: int, tokens: int) -> None:
        sizes = [rows * tokens, rows * tokens, rows, rows]
        token_ids, positions, counts, past = torch.split(bucket.inputs, sizes)
        starts = torch.arange(0, rows * tokens, tokens, dtype=torch.int32, device=past.device)
        ragged = RaggedRows(starts, counts, past, max_tokens=tokens)
        bucket.keep(self._step(token_ids, positions, ragged))

    def _new_bucket(self, rows: int, tokens: int) -> Bucket:
        """Its inputs: token ids and positions (R · K) each, then counts and past (R) each."""
        count, device = rows * tokens, self._device.torch_device
        return Bucket.zeros((2 * (count + rows),), count, self._vocab_size, self._dtype, device)
