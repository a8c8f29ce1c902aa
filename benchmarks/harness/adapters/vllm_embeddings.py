"""vLLM with prompt embeddings: encoder and mapper in torch, OPT with random weights in vLLM.

options: checkpoint, pixels, device, dtype.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

from harness.adapter import need
from harness.adapters.huggingface import TorchVision, random_opt

__all__ = ["Vllm"]


class Vllm(TorchVision):
    """vLLM's engine, given the embeddings of whole prompts."""

    def prepare(self, options: dict[str, Any]) -> None:
        need("vllm")
        super().prepare(options)

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        import vllm

        super().load(options, threads)
        with tempfile.TemporaryDirectory() as folder:
            model = random_opt(self._config, "cpu", self._dtype)
            model.save_pretrained(folder)
            self._embed = model.get_input_embeddings().to(self._device)
            self._engine = vllm.LLM(
                model=folder,
                dtype=options["dtype"],
                enable_prompt_embeds=True,
                skip_tokenizer_init=True,
                max_model_len=self._config.capacity,
                gpu_memory_utilization=0.7,
            )
        return {}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        import torch
        import vllm

        settings = [
            vllm.SamplingParams(
                max_tokens=row.caption_tokens, temperature=0.0, ignore_eos=True, detokenize=False
            )
            for row in rows
        ]
        with torch.inference_mode():
            visual = self._visual_tokens([row.image for row in rows])
            prompts = [
                torch.cat(
                    [tokens, self._embed(torch.tensor(row.alt_ids, device=self._device))]
                ).cpu()
                for tokens, row in zip(visual, rows, strict=True)
            ]
        inputs = [{"prompt_embeds": prompt} for prompt in prompts]
        outputs = self._engine.generate(inputs, settings, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]
