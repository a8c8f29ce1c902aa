"""Tiny random models of transformers' own classes, and the same weights under our names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from altogether_rt.config import DecoderConfig
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.decoder import Decoder

make_torchvision_importable()

from transformers import (  # noqa: E402  (needs the line above where torch is a CPU build)
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

FAMILIES = ("opt", "opt-350m", "gpt2", "llama")
VOCAB, WIDTH, HEADS, LAYERS, FFN, POSITIONS = 89, 32, 4, 3, 80, 40
EOS, PAD = 2, 1


@dataclass
class Pair:
    """A reference model and our decoder with its weights."""

    reference: Any
    decoder: Decoder

    @torch.no_grad()
    def expected(self, ids: list[int]) -> Tensor:
        """The reference's logits (T, vocab) of one sequence alone."""
        logits: Tensor = self.reference(input_ids=torch.tensor([ids])).logits[0]
        return logits

    @torch.no_grad()
    def expected_from(self, embeddings: Tensor, mask: Tensor | None = None) -> Tensor:
        """The reference's logits (B, T, vocab) of embeddings (B, T, W); every place is attended."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long) if mask is None else mask
        logits: Tensor = self.reference(inputs_embeds=embeddings, attention_mask=mask).logits
        return logits


def make_pair(family: str, seed: int = 0) -> Pair:
    """One of FAMILIES with random weights, large enough that every part matters to the logits."""
    torch.manual_seed(seed)
    reference, config = _reference(family)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(0.15 * torch.randn_like(parameter) + float(norm))
    reference.eval()
    state = {"opt": _opt_state, "gpt2": _gpt2_state, "llama": _llama_state}[config.family](
        reference
    )
    decoder = Decoder(config).eval()
    decoder.load_state_dict(state)
    return Pair(reference, decoder)


def _reference(family: str) -> tuple[nn.Module, DecoderConfig]:
    common: dict[str, Any] = {
        "vocab_size": VOCAB,
        "layers": LAYERS,
        "width": WIDTH,
        "heads": HEADS,
        "ffn_width": FFN,
        "max_positions": POSITIONS,
        "eos_id": EOS,
        "pad_id": PAD,
    }
    if family.startswith("opt"):
        post = family == "opt-350m"
        opt = OPTConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            ffn_dim=FFN,
            max_position_embeddings=POSITIONS,
            word_embed_proj_dim=WIDTH // 2 if post else WIDTH,
            do_layer_norm_before=not post,
        )
        structure: dict[str, Any] = {"position_offset": 2}
        if post:
            structure |= {
                "norm_placement": "post",
                "final_norm": False,
                "embed_width": WIDTH // 2,
            }
        return OPTForCausalLM(opt), DecoderConfig(**common, **structure)
    if family == "gpt2":
        gpt2 = GPT2Config(
            vocab_size=VOCAB,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=FFN,
            n_positions=POSITIONS,
        )
        return GPT2LMHeadModel(gpt2), DecoderConfig(**common, family="gpt2", activation="gelu_tanh")
    llama = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=FFN,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(llama), DecoderConfig(
        **common,
        family="llama",
        kv_heads=2,
        activation="silu",
        gated=True,
        norm="rmsnorm",
        norm_eps=1e-6,
        bias=False,
        position="rotary",
        rope_theta=500.0,
        tied_head=False,
    )


def _renamed(
    state: dict[str, Tensor], names: dict[str, str], layer: dict[str, str], at: str
) -> Any:
    """Our state dict, by our name -> theirs; `layer` names stand below `{at}.N.`."""
    names = dict(names)
    for index in range(LAYERS):
        for ours, theirs in layer.items():
            names[f"layers.{index}.{ours}"] = f"{at}.{index}.{theirs}"
    return {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for ours, theirs in names.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in state
    }


def _opt_state(reference: nn.Module) -> Any:
    base = "model.decoder"
    names = {
        "embed": f"{base}.embed_tokens",
        "positions": f"{base}.embed_positions",
        "norm": f"{base}.final_layer_norm",
        "project_in": f"{base}.project_in",
        "project_out": f"{base}.project_out",
    }
    layer = {
        "norm1": "self_attn_layer_norm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "out": "self_attn.out_proj",
        "norm2": "final_layer_norm",
        "fc1": "fc1",
        "fc2": "fc2",
    }
    return _renamed(dict(reference.state_dict()), names, layer, f"{base}.layers")


def _gpt2_state(reference: nn.Module) -> Any:
    state: dict[str, Tensor] = {}
    for name, tensor in reference.state_dict().items():
        if (
            ".attn.c_attn." in name
        ):  # one matrix for q, k and v, and (in, out) where Linear has (out, in)
            for part, piece in zip("qkv", tensor.chunk(3, dim=-1), strict=True):
                state[name.replace("c_attn", part)] = piece.T if piece.ndim == 2 else piece
        elif ".c_" in name and tensor.ndim == 2:
            state[name] = tensor.T
        else:
            state[name] = tensor
    names = {"embed": "transformer.wte", "positions": "transformer.wpe", "norm": "transformer.ln_f"}
    layer = {
        "norm1": "ln_1",
        "q": "attn.q",
        "k": "attn.k",
        "v": "attn.v",
        "out": "attn.c_proj",
        "norm2": "ln_2",
        "fc1": "mlp.c_fc",
        "fc2": "mlp.c_proj",
    }
    return _renamed(state, names, layer, "transformer.h")


def _llama_state(reference: nn.Module) -> Any:
    names = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    layer = {
        "norm1": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "out": "self_attn.o_proj",
        "norm2": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "fc1": "mlp.up_proj",
        "fc2": "mlp.down_proj",
    }
    return _renamed(dict(reference.state_dict()), names, layer, "model.layers")
