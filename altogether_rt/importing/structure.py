"""Derives the structure of a decoder and a mapper from the shapes of their weights.

The weights have this package's names (`names.rename`). The number of attention heads does not show
in any shape: it is looked up by width among the published models, or the user gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from altogether_rt.config import CaptionerConfig, DecoderConfig, MapperConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.vit import Vit
from altogether_rt.plain_data import from_dict

__all__ = ["check_fit", "decoder_structure", "mapper_structure", "tie_head"]

#: Attention heads of the published models by width. OPT 125m to 175b: table 1 of Zhang et al. 2022
#: (arXiv 2205.01068). GPT-2 small to XL: 64 wide each (Radford et al. 2019).
_HEADS = {
    "opt": {
        768: 12,
        1024: 16,
        2048: 32,
        2560: 32,
        4096: 32,
        5120: 40,
        7168: 56,
        9216: 72,
        12288: 96,
    },
    "gpt2": {768: 12, 1024: 16, 1280: 20, 1600: 25},
}

#: OPT's position table starts with two unused rows.
_POSITION_OFFSET = {"opt": 2, "gpt2": 0}
_ACTIVATION = {"opt": "relu", "gpt2": "gelu_tanh"}


def tie_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without its head if that equals the embedding, as in most files."""
    head, embed = state.get("head.weight"), state.get("embed.weight")
    tied = head is not None and embed is not None and torch.equal(head, embed)
    return {name: tensor for name, tensor in state.items() if not (tied and name == "head.weight")}


def decoder_structure(
    state: Mapping[str, Tensor],
    family: str,
    *,
    eos_id: int,
    pad_id: int,
    heads: int | None = None,
) -> DecoderConfig:
    """The structure of an OPT or a GPT-2 (`family`) with these weights.

    heads: attention heads; None: those of the published model of that width. Raises AltogetherError
    if they are unknown or a weight is missing, ConfigError if the numbers are not valid.
    """
    vocab_size, token_width = _shape(state, "embed.weight")
    rows, width = _shape(state, "positions.weight")
    heads = heads or _HEADS[family].get(width)
    if heads is None:
        raise AltogetherError(
            f"no published {family} has the width {width}, so the number of attention heads is not "
            "known: give it (--decoder-heads)."
        )
    final_norm = "norm.weight" in state
    return from_dict(
        DecoderConfig,
        {
            "family": family,
            "vocab_size": vocab_size,
            "layers": _num_layers(state),
            "width": width,
            "heads": heads,
            "ffn_width": _shape(state, "layers.0.fc1.weight")[0],
            "max_positions": rows - _POSITION_OFFSET[family],
            "position_offset": _POSITION_OFFSET[family],
            "eos_id": eos_id,
            "pad_id": pad_id,
            "activation": _ACTIVATION[family],
            # OPT-350m alone has no final norm, and it alone is post-norm.
            "norm_placement": "pre" if final_norm else "post",
            "final_norm": final_norm,
            "embed_width": token_width if "project_in.weight" in state else None,
            "tied_head": "head.weight" not in state,
        },
    )


def mapper_structure(
    state: Mapping[str, Tensor], token_width: int, heads: int
) -> tuple[MapperConfig, int]:
    """The structure of a ClipCap mapper with these weights, and the width of its embeddings.

    Raises AltogetherError if a weight is missing or the shapes contradict each other.
    """
    if "prefix" not in state:
        rows, _ = _shape(state, "fc2.weight")
        mapper = MapperConfig(kind="mlp", prefix_length=_divide(rows, token_width))
        return mapper, _shape(state, "fc1.weight")[1]
    rows, embed_dim = _shape(state, "linear.weight")
    mapper = MapperConfig(
        kind="transformer",
        prefix_length=_shape(state, "prefix")[0],
        clip_length=_divide(rows, token_width),
        layers=_num_layers(state),
        heads=heads,
        mlp_ratio=_shape(state, "layers.0.fc1.weight")[0] / token_width,
    )
    return mapper, embed_dim


def check_fit(config: CaptionerConfig, state: Mapping[str, Tensor]) -> None:
    """Raises AltogetherError unless `state` has the weights of `config`.

    An open_clip encoder is left aside: it is checked where it is loaded.
    """
    patches = config.encoder.vit is not None
    with torch.device("meta"):  # names and shapes, without memory
        wanted = {name: tuple(t.shape) for name, t in CaptionerModel(config).state_dict().items()}
        if patches:
            tower = Vit(config.encoder).state_dict()
            wanted |= {f"encoder.{name}": tuple(t.shape) for name, t in tower.items()}
    given = {n: tuple(t.shape) for n, t in state.items() if patches or not n.startswith("encoder.")}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise AltogetherError(
                f"the weights are not those of a {config.decoder.family} captioner: {name} should "
                f"be {wanted.get(name, 'absent')} but is {given.get(name, 'absent')}."
            )


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != 2:
        raise AltogetherError(
            f"the weights have no matrix {name}: the file is damaged or of another architecture."
        )
    return int(tensor.shape[0]), int(tensor.shape[1])


def _num_layers(state: Mapping[str, Tensor]) -> int:
    return len({m[0] for name in state if (m := re.match(r"layers\.\d+\.", name))})


def _divide(rows: int, token_width: int) -> int:
    if rows % token_width:
        raise AltogetherError(
            f"the mapper's {rows} outputs are not a multiple of the decoder's width, "
            f"{token_width}: mapper and decoder do not belong together."
        )
    return rows // token_width
