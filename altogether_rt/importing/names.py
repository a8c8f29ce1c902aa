"""Tables from the names of published weights to this package's names, one for each family.

A table maps modules (`layers.#.fc1`, where `#` is the number of a layer) or single parameters. A
weight that is not in the table is an error: a model with an unknown part would run, but its
captions would be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from altogether_rt.errors import AltogetherError

__all__ = [
    "CLIPCAP_MLP",
    "CLIPCAP_TRANSFORMER",
    "GPT2",
    "LLAMA",
    "OPT",
    "PATCH_PROJECTOR",
    "SIGLIP",
    "NameTable",
    "rename",
]

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")

#: Names of parameters, as opposed to modules with weight and bias.
_PARAMETERS = ("prefix", "positions", "linear.weight", "linear.bias")


@dataclass(frozen=True)
class NameTable:
    """The names of one family's weights."""

    family: str  # for messages
    names: Mapping[str, str | tuple[str, ...]]  # a tuple: the weight is split into these
    prefixes: tuple[str, ...] = ("",)  # prefixes that the names may have, the longest first
    transposed: tuple[str, ...] = ()  # our names of matrices stored (in, out): GPT-2's Conv1D
    ignored: tuple[str, ...] = ()  # buffers in old files, which are computed when needed
    ignored_prefixes: tuple[str, ...] = ()  # parts that a captioner does not use


OPT = NameTable(
    "OPT",
    {
        "embed_tokens": "embed",
        "embed_positions": "positions",
        "project_in": "project_in",
        "project_out": "project_out",
        "layers.#.self_attn_layer_norm": "layers.#.norm1",
        "layers.#.self_attn.q_proj": "layers.#.q",
        "layers.#.self_attn.k_proj": "layers.#.k",
        "layers.#.self_attn.v_proj": "layers.#.v",
        "layers.#.self_attn.out_proj": "layers.#.out",
        "layers.#.final_layer_norm": "layers.#.norm2",
        "layers.#.fc1": "layers.#.fc1",
        "layers.#.fc2": "layers.#.fc2",
        "final_layer_norm": "norm",
        "lm_head": "head",
    },
    prefixes=("model.decoder.", "decoder.", ""),
    ignored=("version",),
)

GPT2 = NameTable(
    "GPT-2",
    {
        "wte": "embed",
        "wpe": "positions",
        "h.#.ln_1": "layers.#.norm1",
        "h.#.attn.c_attn": ("layers.#.q", "layers.#.k", "layers.#.v"),
        "h.#.attn.c_proj": "layers.#.out",
        "h.#.ln_2": "layers.#.norm2",
        "h.#.mlp.c_fc": "layers.#.fc1",
        "h.#.mlp.c_proj": "layers.#.fc2",
        "ln_f": "norm",
        "lm_head": "head",
    },
    prefixes=("transformer.", ""),
    transposed=("q", "k", "v", "out", "fc1", "fc2"),
    ignored=("h.#.attn.bias", "h.#.attn.masked_bias"),
)

LLAMA = NameTable(
    "Llama",
    {
        "embed_tokens": "embed",
        "layers.#.input_layernorm": "layers.#.norm1",
        "layers.#.self_attn.q_proj": "layers.#.q",
        "layers.#.self_attn.k_proj": "layers.#.k",
        "layers.#.self_attn.v_proj": "layers.#.v",
        "layers.#.self_attn.o_proj": "layers.#.out",
        "layers.#.post_attention_layernorm": "layers.#.norm2",
        "layers.#.mlp.gate_proj": "layers.#.gate",
        "layers.#.mlp.up_proj": "layers.#.fc1",
        "layers.#.mlp.down_proj": "layers.#.fc2",
        "norm": "norm",
        "lm_head": "head",
    },
    prefixes=("model.", ""),
    ignored=("layers.#.self_attn.rotary_emb.inv_freq",),
)

SIGLIP = NameTable(
    "SigLIP's vision tower",
    {
        "embeddings.patch_embedding": "patch",
        "embeddings.position_embedding.weight": "positions",
        "encoder.layers.#.layer_norm1": "layers.#.norm1",
        "encoder.layers.#.self_attn.q_proj": "layers.#.q",
        "encoder.layers.#.self_attn.k_proj": "layers.#.k",
        "encoder.layers.#.self_attn.v_proj": "layers.#.v",
        "encoder.layers.#.self_attn.out_proj": "layers.#.out",
        "encoder.layers.#.layer_norm2": "layers.#.norm2",
        "encoder.layers.#.mlp.fc1": "layers.#.fc1",
        "encoder.layers.#.mlp.fc2": "layers.#.fc2",
        "post_layernorm": "norm",
    },
    ignored_prefixes=("head.",),  # pools the patches, which is not wanted
)

#: Idefics3's connector; DistilViT2's linear or two-layer projection.
PATCH_PROJECTOR = NameTable(
    "a projector of patch tokens",
    {
        "proj": "linear",
        "weight": "linear.weight",
        "bias": "linear.bias",
        "0": "linear",
        "3": "out",
    },
)

CLIPCAP_TRANSFORMER = NameTable(
    "ClipCap's transformer mapper",
    {
        "linear": "linear",
        "prefix_const": "prefix",
        "transformer.layers.#.norm1": "layers.#.norm1",
        "transformer.layers.#.attn.to_queries": "layers.#.q",
        "transformer.layers.#.attn.to_keys_values": "layers.#.kv",
        "transformer.layers.#.attn.project": "layers.#.out",
        "transformer.layers.#.norm2": "layers.#.norm2",
        "transformer.layers.#.mlp.fc1": "layers.#.fc1",
        "transformer.layers.#.mlp.fc2": "layers.#.fc2",
    },
)

CLIPCAP_MLP = NameTable("ClipCap's MLP mapper", {"model.0": "fc1", "model.2": "fc2"})


def rename(
    table: NameTable, weights: Mapping[str, Tensor], *, convert: bool = True
) -> dict[str, Tensor]:
    """The weights under this package's names, in its layout, as fp32.

    convert: False leaves their type, and those that are memory-mapped on disk. Raises
    AltogetherError for a weight that is not in the table.
    """
    renamed: dict[str, Tensor] = {}
    for full_name, weight in weights.items():
        name = full_name.removeprefix(next(p for p in table.prefixes if full_name.startswith(p)))
        if _LAYER.sub("#", name) in table.ignored or name.startswith(table.ignored_prefixes):
            continue
        targets = _targets(table, name)
        if not targets:
            raise AltogetherError(
                f"the weights contain {full_name!r}, which {table.family} does not have: "
                "they are of another architecture."
            )
        # GPT-2's Conv1D is stored (in, out), so the last axis is split for weights and biases.
        plain = weight.is_floating_point() and weight.layout == torch.strided
        if not plain or weight.ndim not in (1, 2, 4) or weight.shape[-1] % len(targets):
            raise AltogetherError(
                f"the weight {full_name!r} is {weight.dtype} of shape {tuple(weight.shape)}, which "
                f"does not fit {table.family}: the file is damaged or of another kind."
            )
        weight = weight.float() if convert else weight
        for ours, part in zip(targets, _parts(table, targets, weight), strict=True):
            if ours in renamed:
                raise AltogetherError(f"the weights contain {full_name!r} under two names.")
            renamed[ours] = part
    return renamed


def _targets(table: NameTable, name: str) -> tuple[str, ...]:
    """Our names for a published name without its prefix; empty if it is not in the table."""
    number = _LAYER.search(name)
    for suffix in (".weight", ".bias", ""):
        if not name.endswith(suffix):
            continue
        module = name.removesuffix(suffix)
        row = table.names.get(module) or table.names.get(_LAYER.sub("#", module))
        if row is not None and (suffix or row in _PARAMETERS):
            rows = (row,) if isinstance(row, str) else row
            return tuple(r.replace("#", number[0] if number else "") + suffix for r in rows)
    return ()


def _parts(table: NameTable, targets: tuple[str, ...], weight: Tensor) -> list[Tensor]:
    """A weight in the layout (out, in), split evenly into its targets."""
    module = targets[0].rpartition(".")[0].rpartition(".")[2]
    if weight.ndim == 2 and module in table.transposed:
        weight = weight.t()
    if len(targets) == 1:
        return [weight]
    # Copies: a checkpoint stores each weight separately.
    return [part.clone() for part in weight.chunk(len(targets))]
