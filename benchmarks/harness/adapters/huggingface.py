"""The public pipeline, as published and as a good engineer tunes it: open_clip, mapper, `generate`.

options: checkpoint; pixels; huggingface: folder of the decoder's weights, without which they are
random (speed does not depend on them where captions have a fixed length); device (cpu); dtype
`float32`, `float16` or `bfloat16`; autocast: dtype of automatic mixed precision; tuned: no attended
padding, and batches of prompts of similar length; generate: options of `generate`, such as
`cache_implementation`; compile: `torch.compile` of the decoder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.adapter import Adapter, Unavailable, need, need_torch
from harness.adapters.batches import Stopwatch, in_batches, pixels_of

__all__ = ["ContinuousBatching", "HuggingFace", "TorchVision", "random_opt"]

_MAPPER = "mapper."


class TorchVision(Adapter):
    """Encoder and mapper of a checkpoint in torch; the decoder is up to subclasses."""

    def prepare(self, options: dict[str, Any]) -> None:
        need("transformers")
        need_torch(options.get("device", "cpu"))

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        import torch

        from altogether_rt.artifacts.checkpoint import Checkpoint
        from altogether_rt.model._torchvision import make_torchvision_importable

        make_torchvision_importable()
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = options.get("device", "cpu")
        self._dtype = getattr(torch, options["dtype"])
        checkpoint = Checkpoint.load(Path(options["checkpoint"]))
        self._config = checkpoint.config
        self._encoder = checkpoint.encoder().to(self._device, self._dtype)
        self._mapper = _mapper_of(checkpoint).to(self._device, self._dtype)
        self._pixels = pixels_of(options["pixels"])
        self._watch = Stopwatch()
        return {}

    @property
    def encode_s(self) -> float:  # type: ignore[override]
        return self._watch.seconds

    def _visual_tokens(self, images: list[int]) -> Any:
        """(B, P, W) on the device."""
        import torch

        with self._watch.running():
            pixels = torch.from_numpy(np.ascontiguousarray(self._pixels[images]))
            embeddings = self._encoder(pixels.to(self._device))
            return self._mapper(embeddings.to(self._dtype))


class HuggingFace(TorchVision):
    """One call of `generate` a batch, which goes on until the longest caption is done."""

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        import torch

        super().load(options, threads)
        self._tuned = options.get("tuned", False)
        self._generate = options.get("generate", {})
        self._autocast = options.get("autocast")
        self._decoder = self._open_decoder(options.get("huggingface"))
        if options.get("compile"):
            self._decoder.forward = torch.compile(self._decoder.forward, dynamic=True)
        self._embed = self._decoder.get_input_embeddings()
        self._pad_id = self._config.decoder.pad_id
        self._max_alt_tokens = self._config.prompt.max_alt_tokens
        if self._tuned:
            return {}
        return {"prompt_tokens": self._config.mapper.prefix_length + self._max_alt_tokens}

    def _open_decoder(self, folder: str | None) -> Any:
        from transformers import AutoModelForCausalLM

        if folder is None:
            return random_opt(self._config, self._device, self._dtype)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=self._dtype)
        return model.to(self._device).eval()

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        mode = "visual" if self._tuned else "attended_left"
        return in_batches(rows, batch, lambda part: self._write(part, mode), by_length=self._tuned)

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return in_batches(rows, len(rows), lambda part: self._write(part, mode), by_length=False)

    def _write(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        with self._precision():
            embeds, mask = self._prompts(rows, mode)
            written = self._decoder.generate(
                inputs_embeds=embeds,
                attention_mask=mask.to(self._device),
                max_new_tokens=max(row.caption_tokens for row in rows),
                do_sample=False,
                eos_token_id=None,
                pad_token_id=self._pad_id,
                **self._generate,
            )
            listed = written.tolist()  # waits for the device
        return [ids[: row.caption_tokens] for ids, row in zip(listed, rows, strict=True)]

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        import torch

        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self._autocast is not None:
                half = getattr(torch, self._autocast)
                stack.enter_context(torch.autocast(self._device, half))
            yield

    def _prompts(self, rows: Sequence[Any], mode: str) -> tuple[Any, Any]:
        """Embeddings (B, S, W) of visual tokens and alt-texts, and their mask (B, S)."""
        import torch

        if mode == "stand_in":
            visual = self._embed(self._ids([row.stand_in_ids for row in rows]))
        else:
            visual = self._visual_tokens([row.image for row in rows])
        longest = self._max_alt_tokens
        if mode != "attended_left":
            longest = max(len(row.alt_ids) for row in rows)
        paddings = [longest - len(row.alt_ids) for row in rows]
        if mode == "attended_left":  # between visual tokens and alt-text, and attended
            ids = [
                [self._pad_id] * n + list(row.alt_ids)
                for n, row in zip(paddings, rows, strict=True)
            ]
            words = self._embed(self._ids(ids))
            embeds = torch.cat([visual.to(words.dtype), words], dim=1)
            return embeds, torch.ones(embeds.shape[:2], dtype=torch.long)
        # Before both, and masked.
        shape = (len(rows), visual.shape[1] + longest, visual.shape[2])
        embeds = torch.zeros(shape, dtype=visual.dtype, device=visual.device)
        mask = torch.ones(shape[:2], dtype=torch.long)
        for index, (padding, row) in enumerate(zip(paddings, rows, strict=True)):
            embeds[index, padding:] = torch.cat(
                [visual[index], self._embed(self._ids(row.alt_ids)).to(visual.dtype)]
            )
            mask[index, :padding] = 0
        return embeds, mask

    def _ids(self, ids: Any) -> Any:
        import torch

        return torch.tensor(ids, dtype=torch.long, device=self._device)


class ContinuousBatching(TorchVision):
    """transformers' own scheduler. It takes no embeddings, so token ids stand in for the visual
    tokens; encoder and mapper run, and their result is not used."""

    def prepare(self, options: dict[str, Any]) -> None:
        if options.get("device") != "cuda":
            raise Unavailable(
                "it takes nearly all memory for its cache, so it is measured on a GPU only"
            )
        super().prepare(options)

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        super().load(options, threads)
        self._decoder = random_opt(self._config, self._device, self._dtype)
        if not hasattr(self._decoder, "generate_batch"):
            raise Unavailable("this version of transformers has no continuous batching")
        return {}

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig

        settings = GenerationConfig(
            max_new_tokens=max(row.caption_tokens for row in rows),
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=self._config.decoder.pad_id,
        )
        with torch.inference_mode():
            self._visual_tokens([row.image for row in rows])
            inputs = [[*row.stand_in_ids, *row.alt_ids] for row in rows]
            written = self._decoder.generate_batch(inputs=inputs, generation_config=settings)
        if len(written) != len(rows):
            raise RuntimeError(f"{len(written)} captions came for {len(rows)} rows")
        return [list(output.generated_tokens) for output in written.values()]


def random_opt(config: Any, device: str, dtype: Any) -> Any:
    """transformers' OPT of the decoder's structure with random weights. Raises Unavailable for a
    decoder of another family."""
    import torch
    from transformers import OPTConfig, OPTForCausalLM

    decoder = config.decoder
    if decoder.family != "opt":
        raise Unavailable(f"the decoder's family is {decoder.family}, and this contestant runs OPT")
    settings = OPTConfig(
        vocab_size=decoder.vocab_size,
        hidden_size=decoder.width,
        ffn_dim=decoder.ffn_width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        max_position_embeddings=decoder.max_positions,
        word_embed_proj_dim=decoder.token_width,
        do_layer_norm_before=decoder.norm_placement == "pre",
        pad_token_id=decoder.pad_id,
        eos_token_id=decoder.eos_id,
    )
    with torch.device(device):
        model = OPTForCausalLM(settings)
    return model.to(dtype).eval()


def _mapper_of(checkpoint: Any) -> Any:
    """The mapper alone, so that the decoder is not read twice."""
    import torch
    from safetensors import safe_open

    from altogether_rt.model.mapper import build_mapper

    with torch.device("meta"):
        mapper = build_mapper(checkpoint.config)
    with safe_open(checkpoint.weights_path, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith(_MAPPER)]  # noqa: SIM118
        state = {name.removeprefix(_MAPPER): file.get_tensor(name) for name in names}
    mapper.load_state_dict(state, assign=True)
    return mapper.eval()
