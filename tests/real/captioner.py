"""A captioner around a real decoder: its pictures do not count, its prompts are real.

The mapper gives every picture the embeddings of the same words, so that the decoder sees what it
was trained to see: an instruction, then an alt-text. The encoder is a tiny ViT with random weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer

from altogether_rt.artifacts.checkpoint import save_checkpoint
from altogether_rt.config import (
    CaptionerConfig,
    EncoderConfig,
    GenerationConfig,
    MapperConfig,
    PromptConfig,
)
from altogether_rt.importing.huggingface import decoder_from_hf
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import build_encoder
from altogether_rt.model.mapper import MlpMapper

__all__ = ["INSTRUCTION", "write_captioner"]

INSTRUCTION = "<|im_start|>user\nRewrite the alt-text of this picture in one or two sentences:"
_EMBED_DIM = 12
_VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
_TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}


def write_captioner(decoder_folder: Path, folder: Path) -> Path:
    """Import the decoder in Hugging Face's format and write the checkpoint `folder`."""
    decoder, weights = decoder_from_hf(str(decoder_folder))
    tokenizer = Tokenizer.from_file(str(decoder_folder / "tokenizer.json"))
    words = tokenizer.encode(INSTRUCTION, add_special_tokens=False).ids
    answer = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).ids
    vision = {"embed_dim": _EMBED_DIM, "vision_cfg": _VISION, "text_cfg": _TEXT}
    config = CaptionerConfig(
        name="real",
        encoder=EncoderConfig("tiny-vit", _EMBED_DIM, 16, model=vision),
        mapper=MapperConfig(kind="mlp", prefix_length=len(words)),
        decoder=decoder,
        prompt=PromptConfig(max_alt_tokens=64, suffix_ids=tuple(answer)),
        generation=GenerationConfig(max_new_tokens=48, temperature=0),
    )
    torch.manual_seed(0)
    model = CaptionerModel(config)
    model.decoder.load_state_dict(weights)
    assert isinstance(model.mapper, MlpMapper)
    with torch.no_grad():
        model.mapper.fc2.bias.copy_(model.decoder.embed.weight[words].flatten())
        model.mapper.fc2.weight.mul_(0.01)
    state = {
        f"encoder.{k}": v for k, v in build_encoder(config.encoder).visual.state_dict().items()
    }
    save_checkpoint(folder, config, {**model.state_dict(), **state}, tokenizer, {"real": True})
    return folder
