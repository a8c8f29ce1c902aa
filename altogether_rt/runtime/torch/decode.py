"""A decode step of fixed sizes in torch, captured as a CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from altogether_rt.model.decoder import Decoder, KVCache

__all__ = ["DecodeStep"]

_WARM_UPS = 2  # before a capture, so that libraries choose their kernels and workspaces


class DecodeStep:
    """One token for each of the first `rows` slots, computed on tensors at fixed addresses.

    On a GPU the step is one launch of a captured graph; on the CPU the same code runs directly.
    Capturing writes the same values into the cache as the step itself.
    """

    def __init__(self, decoder: Decoder, cache: KVCache, rows: int) -> None:
        self._decoder = decoder
        self._cache = cache
        device = cache.keys.device
        self._token_ids = torch.zeros(rows, dtype=torch.long, device=device)
        self._past_lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self._results: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None

    def run(self, token_ids: Tensor, past_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """token_ids, past_lengths (rows,) -> greedy ids (rows,) and logits (rows, vocab).

        The results are overwritten by the next run.
        """
        self._token_ids.copy_(token_ids, non_blocking=True)
        self._past_lengths.copy_(past_lengths, non_blocking=True)
        if self._cache.keys.device.type == "cuda":
            if self._replay is None:
                self._capture()
            assert self._replay is not None
            self._replay()
        else:
            self._results = self._step()
        assert self._results is not None
        return self._results

    def _step(self) -> tuple[Tensor, Tensor]:
        decoder = self._decoder
        embeddings = decoder.embed(self._token_ids)[:, None]  # (rows, 1, W)
        hidden = decoder.decode(embeddings, self._past_lengths, self._cache)
        logits = decoder.logits(hidden[:, 0])
        return logits.argmax(dim=-1), logits

    def _capture(self) -> None:
        device = self._cache.keys.device
        side: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._step()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._results = self._step()
        self._replay = graph.replay
