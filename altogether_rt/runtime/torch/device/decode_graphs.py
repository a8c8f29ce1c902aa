"""Decode steps at fixed sizes, captured as CUDA graphs by the number of rows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from altogether_rt.errors import reason
from altogether_rt.runtime.torch.device.api import TorchDevice
from altogether_rt.runtime.torch.device.pending import ChosenIds

__all__ = ["IDLE", "Bucket", "DecodeGraphs", "captured_or_none", "row_buckets"]

_LOG = logging.getLogger(__name__)

#: Tokens in the slot of a row that pads a step: nothing is written there.
IDLE = -1
#: step(token ids (R,), tokens in each slot (R,), both int32) -> logits (R, vocab).
Step = Callable[[Tensor, Tensor], Tensor]


def row_buckets(num_slots: int) -> tuple[int, ...]:
    """Numbers of rows that graphs are captured for: 1, 2, 3, 4, 6, 8, 12, …, num_slots.

    A step has at most half as many rows again as it needs, and 256 slots need 16 graphs.
    """
    sizes, size = {num_slots}, 1
    while size < num_slots:
        sizes |= {size, min(3 * size // 2, num_slots)}
        size *= 2
    return tuple(sorted(sizes))


def captured_or_none(
    device: TorchDevice, run: Callable[[], None], stream: Any
) -> Callable[[], None] | None:
    """`run` as a graph; None, and a warning, where it cannot be captured."""
    try:
        return device.capture(run, stream)
    except RuntimeError as error:  # whatever this PyTorch or driver does not capture
        _LOG.warning("decode steps run uncaptured, which is slower: %s", reason(error, 300))
        return None


@dataclass
class Bucket:
    """Where the steps of one size have their inputs and results, and their graph."""

    inputs: Tensor  # int32
    greedy_ids: Tensor  # (T,)
    logits: Tensor  # (T, vocab)
    replay: Callable[[], None] | None = None

    @classmethod
    def zeros(
        cls,
        inputs: tuple[int, ...],
        tokens: int,
        vocab_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Bucket:
        """inputs: their shape. tokens: T, of a step."""
        return cls(
            inputs=torch.zeros(inputs, dtype=torch.int32, device=device),
            greedy_ids=torch.zeros(tokens, dtype=torch.long, device=device),
            logits=torch.zeros(tokens, vocab_size, dtype=dtype, device=device),
        )

    def keep(self, logits: Tensor) -> None:
        """Results (T, vocab) of a step."""
        self.logits.copy_(logits)
        self.greedy_ids.copy_(logits.argmax(dim=-1))


class DecodeGraphs:
    """Runs steps of one token a row: padded to a bucket, as graphs once `capture` was called.

    Rows that pad a step write nothing into the cache. All graphs share their working memory; each
    has only inputs and results of its own.
    """

    def __init__(
        self,
        device: TorchDevice,
        stream: Any,
        num_slots: int,
        vocab_size: int,
        dtype: torch.dtype,
        step: Step,
    ) -> None:
        self._device, self._stream, self._step = device, stream, step
        self._sizes = row_buckets(num_slots)
        self._vocab_size, self._dtype = vocab_size, dtype
        self._buckets: dict[int, Bucket] = {}  # inputs (2, R): token ids, and tokens in each slot

    @property
    def num_captured(self) -> int:
        return sum(bucket.replay is not None for bucket in self._buckets.values())

    def capture(self) -> bool:
        """Capture a step of each bucket, on the decoder's stream, which is in use; whether that
        works here.

        Not while captions are written, since a capture waits for the device and empties PyTorch's
        memory. The largest comes first: the others then find room in its working memory.
        """
        for size in reversed(self._sizes):
            bucket = self._buckets[size] = self._new_bucket(size)
            bucket.inputs[1] = IDLE
            run = functools.partial(self._run, bucket)
            bucket.replay = captured_or_none(self._device, run, self._stream)
            if bucket.replay is None:
                return False
        return True

    def run(
        self,
        token_ids: NDArray[np.integer],
        past_lengths: NDArray[np.integer],
        chosen: ChosenIds | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One token for each of the first slots: greedy ids (rows,), logits (rows, vocab).

        chosen: ids that take the place of `token_ids` on the device. On the decoder's stream, which
        is in use. The next run overwrites the results.
        """
        rows = len(token_ids)
        size = next(each for each in self._sizes if each >= rows)
        host = np.zeros((2 if chosen is None else 3, size), np.int32)
        host[1] = IDLE  # of the rows that pad
        host[0, :rows], host[1, :rows] = token_ids, past_lengths
        if chosen is not None:  # which of the chosen ids, or of the known ones behind them
            host[2] = np.arange(len(chosen.ids), len(chosen.ids) + size)
            host[2, chosen.index] = chosen.choices
        bucket = self._buckets.get(size)
        if bucket is None:
            bucket = self._buckets[size] = self._new_bucket(size)
        uploaded = self._device.upload(host)
        bucket.inputs.copy_(uploaded[:2], non_blocking=True)
        if chosen is not None:
            either = torch.cat([chosen.ids, uploaded[0]])
            torch.index_select(either, 0, uploaded[2], out=bucket.inputs[0])
        if bucket.replay is not None:
            bucket.replay()
        else:
            self._run(bucket)
        return bucket.greedy_ids[:rows], bucket.logits[:rows]

    def _run(self, bucket: Bucket) -> None:
        bucket.keep(self._step(bucket.inputs[0], bucket.inputs[1]))

    def _new_bucket(self, size: int) -> Bucket:
        device = self._device.torch_device
        return Bucket.zeros((2, size), size, self._vocab_size, self._dtype, device)
