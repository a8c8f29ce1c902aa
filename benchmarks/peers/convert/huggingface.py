"""Our checkpoint's decoder as a Hugging Face folder (OPTForCausalLM, float32), and its embeddings.

    python convert/huggingface.py CHECKPOINT OUT

Writes OUT (config.json, model.safetensors, tokenizer) and OUT/embeddings.npy, the table of token
embeddings for engines that take embeddings instead of token ids.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
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


def main() -> None:
    checkpoint, out = Checkpoint.load(Path(sys.argv[1])), Path(sys.argv[2])
    out.mkdir(parents=True)
    theirs = {ours: name for name, ours in OPT.names.items()}
    state = checkpoint.captioner(with_encoder=False).decoder.state_dict()
    named = {}
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module.startswith("layers."):
            _, number, part = module.split(".")
            target = theirs[f"layers.#.{part}"].replace("#", number)
        else:
            target = theirs[module]
        named[f"model.decoder.{target}.{kind}"] = tensor.contiguous()
    save_file(named, out / "model.safetensors", metadata={"format": "pt"})
    opt_config(checkpoint.config.decoder).save_pretrained(out)
    shutil.copy(checkpoint.tokenizer_path, out / "tokenizer.json")
    # Written by hand, with a class name that every version of transformers knows.
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "</s>"}
    tokenizer |= {"eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    np.save(out / "embeddings.npy", state["embed.weight"].float().numpy())


if __name__ == "__main__":
    main()
