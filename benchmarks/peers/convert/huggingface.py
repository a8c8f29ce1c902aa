"""Our checkpoint's decoder as a Hugging Face folder (OPTForCausalLM, float32), and its embeddings.

    python convert/huggingface.py CHECKPOINT OUT [--half]

With --half the weights are float16, so that a conversion to fewer bits takes half the memory.

Writes OUT (config.json, model.safetensors, tokenizer) and OUT/embeddings.npy, the table of token
embeddings for engines that take embeddings instead of token ids.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import OPTConfig

from altogether_rt.artifacts.checkpoint import Checkpoint
from altogether_rt.config import DecoderConfig
from altogether_rt.importing.names import OPT


def opt_config(decoder: DecoderConfig) -> OPTConfig:
    """The same structure as a configuration of Hugging Face."""
    return OPTConfig(
        vocab_size=decoder.vocab_size,
        hidden_size=decoder.width,
        word_embed_proj_dim=decoder.token_width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        ffn_dim=decoder.ffn_width,
        max_position_embeddings=decoder.max_positions,
        activation_function=decoder.activation,
        dropout=0.0,
        bos_token_id=decoder.eos_id,
        eos_token_id=decoder.eos_id,
        pad_token_id=decoder.pad_id,
        architectures=["OPTForCausalLM"],
    )


def tensors_of(weights: Path, *, half: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """The decoder's tensors of a checkpoint, by their names in it."""
    with safe_open(weights, framework="pt") as stream:
        for name in stream.keys():  # noqa: SIM118
            if name.startswith("decoder."):
                tensor = stream.get_tensor(name)
                yield name.removeprefix("decoder."), tensor.half() if half else tensor.float()


def main() -> None:
    checkpoint, out = Checkpoint.load(Path(sys.argv[1])), Path(sys.argv[2])
    out.mkdir(parents=True)
    theirs = {ours: name for name, ours in OPT.names.items()}
    half = "--half" in sys.argv[3:]
    named = {}
    for name, tensor in tensors_of(checkpoint.weights_path, half=half):
        module, _, kind = name.rpartition(".")
        if module.startswith("layers."):
            _, number, part = module.split(".")
            target = theirs[f"layers.#.{part}"].replace("#", number)
        else:
            target = theirs[module]
        named[f"model.decoder.{target}.{kind}"] = tensor.contiguous()
        if name == "embed.weight":
            np.save(out / "embeddings.npy", tensor.float().numpy())
    save_file(named, out / "model.safetensors", metadata={"format": "pt"})
    config = opt_config(checkpoint.config.decoder)
    config.torch_dtype = "float16" if half else "float32"
    config.save_pretrained(out)
    shutil.copy(checkpoint.tokenizer_path, out / "tokenizer.json")
    # Written by hand, with a class name that every version of transformers knows.
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "</s>"}
    tokenizer |= {"eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()
