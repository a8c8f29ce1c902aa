"""CTranslate2 in int8: the decoder alone; token ids stand in for visual tokens.

options: folder, compute_type. A row that has reached its length leaves the batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from harness.adapter import Adapter
from harness.adapters.batches import in_batches

__all__ = ["CTranslate"]


class CTranslate(Adapter):
    """A Generator."""

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        folder = options["folder"]
        self._generator = ctranslate2.Generator(
            folder, "cpu", compute_type=options["compute_type"], intra_threads=threads or 0
        )
        self._vocabulary = json.loads((Path(folder) / "vocabulary.json").read_text("utf-8"))
        return {}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        return in_batches(rows, batch, self._write, by_length=True)

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return in_batches(rows, len(rows), self._write, by_length=False)

    def _write(self, rows: Sequence[Any]) -> list[list[int]]:
        left = [row.caption_tokens for row in rows]

        def is_done(step: Any) -> bool:
            # Counted here: CTranslate2's count includes part of a longer prompt in the batch.
            left[step.batch_id] -= 1
            return left[step.batch_id] == 0

        results = self._generator.generate_batch(
            [[self._vocabulary[i] for i in (*row.stand_in_ids, *row.alt_ids)] for row in rows],
            max_length=max(left),
            beam_size=1,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            callback=is_done,
        )
        return [result.sequences_ids[0] for result in results]
