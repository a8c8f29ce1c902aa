"""OpenVINO: encoder, mapper and a stateful decoder with int8 weights, performance hint LATENCY.

options: folder, embeddings, pixels, pad_id; settings: properties of the CPU plugin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from harness.adapter import Adapter
from harness.adapters.batches import Stopwatch, in_batches, left_padded, pixels_of

__all__ = ["OpenVino"]


class OpenVino(Adapter):
    """Three compiled models and a greedy loop over the decoder's state."""

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        core, folder = ov.Core(), Path(options["folder"])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or 0,
            **options.get("settings", {}),
        }
        self._encoder, self._mapper, self._decoder = (
            core.compile_model(folder / f"{name}.xml", "CPU", settings)
            for name in ("encoder", "mapper", "decoder")
        )
        self._request = self._decoder.create_infer_request()
        self._inputs = {name for port in self._decoder.inputs for name in port.get_names()}
        self._embeddings = np.load(options["embeddings"], mmap_mode="r")
        self._pixels = pixels_of(options["pixels"])
        self._watch = Stopwatch()
        return {}

    @property
    def encode_s(self) -> float:  # type: ignore[override]
        return self._watch.seconds

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        return in_batches(rows, batch, self._write, by_length=True)

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return in_batches(rows, len(rows), lambda part: self._write(part, mode), by_length=False)

    def _write(self, rows: Sequence[Any], mode: str = "visual") -> list[list[int]]:
        if mode == "stand_in":
            visual = self._embeddings[np.array([row.stand_in_ids for row in rows])]
        else:
            visual = self._visual_tokens([row.image for row in rows])
        prompts = [
            np.concatenate([tokens, self._embeddings[list(row.alt_ids)]]).astype(np.float32)
            for tokens, row in zip(visual, rows, strict=True)
        ]
        embeds, mask = left_padded(prompts, 0.0)
        self._request.reset_state()
        written = []
        for _ in range(max(row.caption_tokens for row in rows)):
            ids = self._step(embeds, mask)
            written.append(ids)
            embeds = self._embeddings[ids][:, None]
            mask = np.concatenate([mask, np.ones((len(rows), 1), np.int64)], axis=1)
        by_row = np.stack(written, axis=1).tolist()
        return [ids[: row.caption_tokens] for ids, row in zip(by_row, rows, strict=True)]

    def _step(self, embeds: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.int64]:
        """The next token of each row."""
        length = embeds.shape[1]
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)[:, -length:]
        inputs = {
            "inputs_embeds": embeds,
            "attention_mask": mask,
            "position_ids": positions,
            "beam_idx": np.arange(len(embeds), dtype=np.int32),
        }
        given = {name: array for name, array in inputs.items() if name in self._inputs}
        self._request.infer(given, share_inputs=True)
        logits = self._request.get_tensor("logits").data
        ids: NDArray[np.int64] = logits[:, -1].argmax(axis=-1)
        return ids

    def _visual_tokens(self, images: list[int]) -> NDArray[np.float32]:
        with self._watch.running():
            pixels = np.ascontiguousarray(self._pixels[images])
            tokens: NDArray[np.float32] = self._mapper(self._encoder(pixels)[0])[0]
        return tokens
