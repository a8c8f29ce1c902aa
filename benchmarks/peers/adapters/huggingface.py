"""The public pipeline, as published and as a good engineer tunes it: open_clip, mapper, `generate`.

options: checkpoint, huggingface, pixels; dtype `float32` or `bfloat16`; tuned: no attended padding,
and batches of prompts of like length; compile: `torch.compile` of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapters.batches import MAX_ALT_TOKENS, Stopwatch, in_batches, pixels_of
from safetensors import safe_open

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.mapper import build_mapper

__all__ = ["HuggingFace", "load"]

_MAPPER = "mapper."


class HuggingFace:
    """Encoder, mapper and decoder in torch."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        make_torchvision_importable()
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self._dtype = getattr(torch, options["dtype"])
        self._tuned = options.get("tuned", False)
        checkpoint = Checkpoint.load(Path(options["checkpoint"]))
        self._encoder = checkpoint.encoder().to(self._dtype)
        self._mapper = mapper_of(checkpoint).to(self._dtype)
        self._decoder = AutoModelForCausalLM.from_pretrained(
            options["huggingface"], dtype=self._dtype
        ).eval()
        if options.get("compile"):
            self._decoder.forward = torch.compile(self._decoder.forward, dynamic=True)
        self._embed = self._decoder.get_input_embeddings()
        self._pad_id = checkpoint.config.decoder.pad_id
        self._pixels = pixels_of(options["pixels"])
        self._watch = Stopwatch()

    @property
    def encode_s(self) -> float:
        return self._watch.seconds

    def caption(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        mode = "visual" if self._tuned else "attended_left"
        return in_batches(rows, batch, lambda part: self._write(part, mode), by_length=self._tuned)

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return in_batches(rows, len(rows), lambda part: self._write(part, mode), by_length=False)

    @torch.inference_mode()
    def _write(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        """One call of `generate`, which goes on until the longest caption is done."""
        if mode == "stand_in":
            visual = self._embed(torch.tensor([row.stand_in_ids for row in rows]))
        else:
            visual = self._visual_tokens([row.image for row in rows])
        longest = MAX_ALT_TOKENS
        if mode != "attended_left":
            longest = max(len(row.alt_ids) for row in rows)
        paddings = [longest - len(row.alt_ids) for row in rows]
        if mode == "attended_left":  # between visual tokens and alt-text, and attended
            ids = [
                [self._pad_id] * n + list(row.alt_ids)
                for n, row in zip(paddings, rows, strict=True)
            ]
            embeds = torch.cat([visual, self._embed(torch.tensor(ids))], dim=1)
            mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        else:  # before both, and masked
            embeds = torch.zeros(len(rows), visual.shape[1] + longest, visual.shape[2])
            embeds = embeds.to(visual.dtype)
            mask = torch.ones(embeds.shape[:2], dtype=torch.long)
            for index, (padding, row) in enumerate(zip(paddings, rows, strict=True)):
                alt = self._embed(torch.tensor(row.alt_ids, dtype=torch.long))
                embeds[index, padding:] = torch.cat([visual[index], alt])
                mask[index, :padding] = 0
        written = self._decoder.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=max(row.caption_tokens for row in rows),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=self._pad_id,
        )
        return [ids[: row.caption_tokens] for ids, row in zip(written.tolist(), rows, strict=True)]

    def _visual_tokens(self, images: list[int]) -> torch.Tensor:
        with self._watch.running():
            pixels = torch.from_numpy(np.ascontiguousarray(self._pixels[images]))
            tokens: torch.Tensor = self._mapper(self._encoder(pixels))
        return tokens


def mapper_of(checkpoint: Checkpoint) -> torch.nn.Module:
    """The mapper alone, so that the decoder is not read twice."""
    with torch.device("meta"):
        mapper = build_mapper(checkpoint.config)
    with safe_open(checkpoint.weights_path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_MAPPER)]  # noqa: SIM118
        state = {name.removeprefix(_MAPPER): file.get_tensor(name) for name in names}
    mapper.load_state_dict(state, assign=True)
    return mapper.eval()


def load(options: dict[str, Any], threads: int) -> HuggingFace:
    return HuggingFace(options, threads)
