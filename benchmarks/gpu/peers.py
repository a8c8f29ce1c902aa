"""Other software on the same structure: encoder and mapper in torch, OPT in each one's hands.

Their decoders have random weights of their own: with captions of fixed length speed does not
depend on what the weights are, so these contestants have no parity figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from altogether_rt.config import CaptionerConfig

from .clock import Deadline
from .own import measure_sizes, median_s
from .skip import Skip, need, need_torch
from .workload import Workload

__all__ = ["continuous_batching", "public_pipeline", "static_cache", "vllm_embeddings"]

Emit = Callable[..., None]


class _TorchVision:
    """Encoder and mapper of a checkpoint in torch."""

    def __init__(self, request: dict[str, Any], dtype: str) -> None:
        need("transformers")
        need_torch(request["device"])
        import torch

        from altogether_rt.artifacts.checkpoint import Checkpoint

        checkpoint = Checkpoint.load(Path(request["checkpoint"]))
        self.config = checkpoint.config
        self.device, self.dtype = request["device"], getattr(torch, dtype)
        model = checkpoint.captioner()
        del model.decoder
        self._model = model.to(self.device, self.dtype).eval()

    def visual_tokens(self, workload: Workload) -> Any:
        """(rows, P, W)"""
        import torch

        pixels = torch.from_numpy(workload.pixels).to(self.device)
        return self._model.visual_tokens(self._model.encode(pixels).to(self.dtype))


def public_pipeline(request: dict[str, Any], emit: Emit) -> None:
    """As published: float32 weights under autocast, alt-texts padded to the longest that there may
    be, the padding attended; a batch of rows that all go on until the last is done."""
    import torch

    vision = _TorchVision(request, "float32")
    model = _opt(vision.config, vision.device, torch.float32)
    half = getattr(torch, request["autocast"])
    padded = vision.config.prompt.max_alt_tokens

    def write(workload: Workload) -> None:
        with torch.inference_mode(), torch.autocast(vision.device, half):
            ids = torch.full((workload.rows, padded), vision.config.decoder.pad_id)
            for row, text in enumerate(workload.prompt_ids):
                ids[row, padded - len(text) :] = torch.tensor(text)
            words = model.get_input_embeddings()(ids.to(vision.device))
            embeds = torch.cat([vision.visual_tokens(workload).to(words.dtype), words], dim=1)
            _generate(model, embeds, torch.ones(embeds.shape[:2], dtype=torch.long), workload)

    emit(prompt_tokens=vision.config.mapper.prefix_length + padded)
    _measure(request, emit, vision.config, write)


def static_cache(request: dict[str, Any], emit: Emit) -> None:
    """Half precision throughout, prompts padded to the batch's longest and masked, a static cache,
    which `generate` compiles for on a GPU."""
    import torch

    vision = _TorchVision(request, request["dtype"])
    model = _opt(vision.config, vision.device, vision.dtype)

    def write(workload: Workload) -> None:
        with torch.inference_mode():
            embeds, mask = _left_padded(model, vision.visual_tokens(workload), workload)
            _generate(model, embeds, mask, workload, cache_implementation="static")

    _measure(request, emit, vision.config, write)


def continuous_batching(request: dict[str, Any], emit: Emit) -> None:
    """transformers' own scheduler. It takes no embeddings, so token ids stand in for the visual
    tokens; encoder and mapper run, and their result is not used."""
    if request["device"] != "cuda":
        raise Skip("it takes nearly all memory for its cache, so it is measured on a GPU only")
    import torch
    from transformers import GenerationConfig

    vision = _TorchVision(request, request["dtype"])
    model = _opt(vision.config, vision.device, vision.dtype)
    if not hasattr(model, "generate_batch"):
        raise Skip("this transformers has no continuous batching")
    stand_in = [4] * vision.config.mapper.prefix_length

    def write(workload: Workload) -> None:
        settings = GenerationConfig(
            max_new_tokens=workload.new_tokens,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=vision.config.decoder.pad_id,
        )
        with torch.inference_mode():
            vision.visual_tokens(workload)
            inputs = [stand_in + ids for ids in workload.prompt_ids]
            written = model.generate_batch(inputs=inputs, generation_config=settings)
        lengths = {len(output.generated_tokens) for output in written.values()}
        if lengths != {workload.new_tokens} or len(written) != workload.rows:
            raise RuntimeError(f"captions of {sorted(lengths)} tokens came, {len(written)} of them")

    _measure(request, emit, vision.config, write)


def vllm_embeddings(request: dict[str, Any], emit: Emit) -> None:
    """vLLM with prompt embeddings."""
    need("vllm")
    import torch
    import vllm

    vision = _TorchVision(request, request["dtype"])
    with tempfile.TemporaryDirectory() as folder:
        model = _opt(vision.config, "cpu", vision.dtype)
        model.save_pretrained(folder)
        words = model.get_input_embeddings().to(vision.device)
        engine = vllm.LLM(
            model=folder,
            dtype=request["dtype"],
            enable_prompt_embeds=True,
            skip_tokenizer_init=True,
            max_model_len=vision.config.capacity,
            gpu_memory_utilization=0.7,
        )

    def write(workload: Workload) -> None:
        settings = vllm.SamplingParams(
            max_tokens=workload.new_tokens, temperature=0.0, ignore_eos=True, detokenize=False
        )
        with torch.inference_mode():
            visual = vision.visual_tokens(workload)
            prompts = [
                torch.cat([tokens, words(torch.tensor(ids, device=vision.device))]).cpu()
                for tokens, ids in zip(visual, workload.prompt_ids, strict=True)
            ]
        engine.generate([{"prompt_embeds": prompt} for prompt in prompts], settings, use_tqdm=False)

    _measure(request, emit, vision.config, write)


def _opt(config: CaptionerConfig, device: str, dtype: Any) -> Any:
    """transformers' OPT of the decoder's structure, random weights."""
    import torch

    from altogether_rt.model._torchvision import make_torchvision_importable

    make_torchvision_importable()
    from transformers import OPTConfig, OPTForCausalLM

    decoder = config.decoder
    if decoder.family != "opt":
        raise Skip(f"the decoder is of family {decoder.family}, and this contestant is given OPT")
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


def _left_padded(model: Any, visual: Any, workload: Workload) -> tuple[Any, Any]:
    """Prompt embeddings (rows, longest, W), padding on the left, and their mask."""
    import torch

    rows, places, width = visual.shape
    longest = max(workload.prompt_lengths)
    embeds = torch.zeros(rows, longest, width, dtype=visual.dtype, device=visual.device)
    mask = torch.zeros(rows, longest, dtype=torch.long)
    words = model.get_input_embeddings()
    for row, ids in enumerate(workload.prompt_ids):
        start = longest - places - len(ids)
        text = words(torch.tensor(ids, device=visual.device))
        embeds[row, start:] = torch.cat([visual[row], text])
        mask[row, start:] = 1
    return embeds, mask


def _generate(model: Any, embeds: Any, mask: Any, workload: Workload, **options: Any) -> None:
    written = model.generate(
        inputs_embeds=embeds,
        attention_mask=mask.to(embeds.device),
        max_new_tokens=workload.new_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=workload.config.decoder.pad_id,
        **options,
    )
    if tuple(written.shape) != (workload.rows, workload.new_tokens):
        raise RuntimeError(f"captions of shape {tuple(written.shape)} came")
    written.cpu()  # waits for the device


def _measure(
    request: dict[str, Any],
    emit: Emit,
    config: CaptionerConfig,
    write: Callable[[Workload], None],
) -> None:
    def measure_one(batch: int) -> dict[str, Any]:
        workload = Workload.of(config, batch)
        whole_s = median_s(lambda: write(workload))
        return {
            "whole_s": round(whole_s, 5),
            "images_per_s": round(batch / whole_s, 3),
            "workload": workload.describe(),
        }

    measure_sizes(request["batch_sizes"], Deadline(request["seconds"]), emit, measure_one)
