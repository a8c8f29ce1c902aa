"""A SmolVLM as llama.cpp reads it: a GGUF file of the decoder, others of encoder and connector.

    python -m vlm.gguf_files PUBLISHED OUT Q8_0 2=1 5=2            (started by vlm_peers.py)

Writes OUT/decoder.gguf and, for each NAME=SIDES, OUT/NAME/mmproj.gguf, with which llama.cpp resizes
an image's longest edge to so many sides of a tile. Needs gguf and NumPy alone, so that it runs in
llama.cpp's environment. Matrices are rounded by gguf's own code (Q8_0, Q4_0, F16); in a 4-bit file
embedding, head, encoder and connector have 8 bits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

__all__ = ["write_gguf"]

#: Names in the published files -> llama.cpp's, `#` being the number of a layer.
_TEXT = {
    "model.text_model.embed_tokens": "token_embd",
    "model.text_model.norm": "output_norm",
    "lm_head": "output",
    "model.text_model.layers.#.input_layernorm": "blk.#.attn_norm",
    "model.text_model.layers.#.self_attn.q_proj": "blk.#.attn_q",
    "model.text_model.layers.#.self_attn.k_proj": "blk.#.attn_k",
    "model.text_model.layers.#.self_attn.v_proj": "blk.#.attn_v",
    "model.text_model.layers.#.self_attn.o_proj": "blk.#.attn_output",
    "model.text_model.layers.#.post_attention_layernorm": "blk.#.ffn_norm",
    "model.text_model.layers.#.mlp.gate_proj": "blk.#.ffn_gate",
    "model.text_model.layers.#.mlp.up_proj": "blk.#.ffn_up",
    "model.text_model.layers.#.mlp.down_proj": "blk.#.ffn_down",
}
_VISION = {
    "model.vision_model.embeddings.patch_embedding": "v.patch_embd",
    "model.vision_model.embeddings.position_embedding": "v.position_embd",
    "model.vision_model.post_layernorm": "v.post_ln",
    "model.vision_model.encoder.layers.#.layer_norm1": "v.blk.#.ln1",
    "model.vision_model.encoder.layers.#.self_attn.q_proj": "v.blk.#.attn_q",
    "model.vision_model.encoder.layers.#.self_attn.k_proj": "v.blk.#.attn_k",
    "model.vision_model.encoder.layers.#.self_attn.v_proj": "v.blk.#.attn_v",
    "model.vision_model.encoder.layers.#.self_attn.out_proj": "v.blk.#.attn_out",
    "model.vision_model.encoder.layers.#.layer_norm2": "v.blk.#.ln2",
    "model.vision_model.encoder.layers.#.mlp.fc1": "v.blk.#.ffn_up",
    "model.vision_model.encoder.layers.#.mlp.fc2": "v.blk.#.ffn_down",
    "model.connector.modality_projection.proj": "mm.model.fc",
}
_BLOCK = 32  # numbers with a common scale, in a row of a rounded matrix


def write_gguf(published: Path, out: Path, kind: str, sides: dict[str, int]) -> None:
    """Write the files; kind: of matrices, a name of gguf's; sides: of the longest edge, by name."""
    about = json.loads((published / "config.json").read_text("utf-8"))
    weights = _Weights(published)
    out.mkdir(parents=True, exist_ok=True)
    wanted = gguf.GGMLQuantizationType[kind]
    _write_decoder(published, about, weights, wanted, out / "decoder.gguf")
    projector_kind = wanted if kind == "F16" else _EIGHT_BITS
    for name, number in sides.items():
        (out / name).mkdir(exist_ok=True)
        edge = number * about["vision_config"]["image_size"]
        path = out / name / "mmproj.gguf"
        _write_projector(published, about, weights, projector_kind, edge, path)


_EIGHT_BITS = gguf.GGMLQuantizationType.Q8_0


class _Weights:
    """Tensors of the safetensors files of a folder as float32, without torch."""

    def __init__(self, folder: Path) -> None:
        self._tensors: dict[str, tuple[Path, str, list[int], int, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                start, end = (8 + length + offset for offset in tensor["data_offsets"])
                self._tensors[name] = (path, tensor["dtype"], tensor["shape"], start, end)

    def names(self) -> Iterator[str]:
        yield from self._tensors

    def get(self, name: str) -> Any:
        path, dtype, shape, start, end = self._tensors[name]
        raw = np.fromfile(path, np.uint8, end - start, offset=start)
        if dtype == "BF16":
            wide = raw.view(np.uint16).astype(np.uint32) << 16
            return wide.view(np.float32).reshape(shape)
        return (
            raw.view({"F32": np.float32, "F16": np.float16}[dtype])
            .astype(np.float32)
            .reshape(shape)
        )


def _write_decoder(
    published: Path, about: dict[str, Any], weights: _Weights, kind: Any, path: Path
) -> None:
    text = about["text_config"]
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(text["head_dim"])
    writer.add_rope_freq_base(float(text["rope_theta"]))
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_vocab_size(text["vocab_size"])
    _add_tokenizer(writer, published)

    def tensors() -> Iterator[tuple[str, Any, Any]]:
        for name, ours in _named(weights, _TEXT):
            array = weights.get(name)
            if ".attn_q." in ours or ".attn_k." in ours:
                array = _interleaved(array, heads if ".attn_q." in ours else kv_heads)
            edge = ours.startswith(("token_embd", "output."))
            yield ours, array, _EIGHT_BITS if edge and kind.name.startswith("Q") else kind

    _write(writer, tensors())


def _add_tokenizer(writer: Any, published: Path) -> None:
    about = json.loads((published / "tokenizer.json").read_text("utf-8"))
    generation = json.loads((published / "generation_config.json").read_text("utf-8"))
    ids = dict(about["model"]["vocab"])
    special = {one["content"]: one["id"] for one in about["added_tokens"] if one["special"]}
    ids |= special
    tokens = sorted(ids, key=ids.__getitem__)
    assert [ids[token] for token in tokens] == list(range(len(tokens)))
    kinds = gguf.TokenType
    merges = [m if isinstance(m, str) else " ".join(m) for m in about["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if t in special else kinds.NORMAL for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(generation["bos_token_id"])
    writer.add_eos_token_id(generation["eos_token_id"])
    writer.add_pad_token_id(generation["pad_token_id"])
    writer.add_add_bos_token(False)


def _write_projector(
    published: Path,
    about: dict[str, Any],
    weights: _Weights,
    kind: Any,
    longest_edge: int,
    path: Path,
) -> None:
    vision = {
        "num_hidden_layers": 12,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-6,
        **about["vision_config"],
    }
    pixels = json.loads((published / "preprocessor_config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("idefics3")
    writer.add_vision_image_size(vision["image_size"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["num_hidden_layers"])
    writer.add_vision_head_count(vision["num_attention_heads"])
    writer.add_vision_attention_layernorm_eps(vision["layer_norm_eps"])
    writer.add_vision_projection_dim(about["text_config"]["hidden_size"])
    writer.add_vision_projector_scale_factor(about["scale_factor"])
    writer.add_vision_preproc_image_size(longest_edge)
    writer.add_vision_image_mean(pixels["image_mean"])
    writer.add_vision_image_std(pixels["image_std"])
    writer.add_vision_use_gelu(True)

    def tensors() -> Iterator[tuple[str, Any, Any]]:
        for name, ours in _named(weights, _VISION):
            plain = "_embd" in ours  # llama.cpp adds positions as they are
            yield ours, weights.get(name), gguf.GGMLQuantizationType.F32 if plain else kind

    _write(writer, tensors())


def _named(weights: _Weights, table: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each published name of a part with llama.cpp's."""
    for name in weights.names():
        module, _, kind = name.rpartition(".")
        number = next((piece for piece in module.split(".") if piece.isdecimal()), "")
        row = table.get(module.replace(f".{number}.", ".#.") if number else module)
        if row is not None:
            yield name, f"{row.replace('#', number)}.{kind}"


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows of a head in pairs (0, half, 1, half + 1, …): llama.cpp rotates neighbours."""
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, width)


def _write(writer: Any, tensors: Iterator[tuple[str, Any, Any]]) -> None:
    for name, array, wanted in tensors:
        matrix = array.ndim == 2 and array.shape[-1] % _BLOCK == 0
        kind = wanted if matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, target, kind, *edges = sys.argv[1:]
    sides = dict(edge.split("=") for edge in edges)
    write_gguf(Path(source), Path(target), kind, {name: int(n) for name, n in sides.items()})
