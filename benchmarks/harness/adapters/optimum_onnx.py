"""optimum-onnx: ORTModelForCausalLM, the decoder alone; token ids stand in for visual tokens.

options: folder, pad_id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from optimum.onnxruntime import ORTModelForCausalLM

from harness.adapter import Adapter
from harness.adapters.batches import in_batches, left_padded

__all__ = ["OptimumOnnx"]


class OptimumOnnx(Adapter):
    """`generate` of transformers over an ONNX Runtime session."""

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        torch.set_num_threads(threads or torch.get_num_threads())
        session = ort.SessionOptions()
        session.intra_op_num_threads = threads or 0
        self._model = ORTModelForCausalLM.from_pretrained(
            options["folder"], session_options=session, provider="CPUExecutionProvider"
        )
        self._pad_id = options["pad_id"]
        return {}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        return in_batches(rows, batch, self._write, by_length=True)

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return in_batches(rows, len(rows), self._write, by_length=False)

    @torch.inference_mode()
    def _write(self, rows: Sequence[Any]) -> list[list[int]]:
        prompts = [np.array((*row.stand_in_ids, *row.alt_ids), np.int64) for row in rows]
        ids, mask = left_padded(prompts, self._pad_id)
        written = self._model.generate(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            max_new_tokens=max(row.caption_tokens for row in rows),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=self._pad_id,
        )[:, ids.shape[1] :]
        return [
            part[: row.caption_tokens] for part, row in zip(written.tolist(), rows, strict=True)
        ]
