"""Small weights in the formats that ClipCap and Altogether are published in, and what they compute.

The decoders are Hugging Face's own classes and the mappers are written here a second time, plainly
and under ClipCap's names, so that what is compared shares no code with the package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import pre_tokenizers
from torch import Tensor, nn

from altogether_rt.model._torchvision import make_torchvision_importable

make_torchvision_importable()
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM  # noqa: E402

VOCAB_SIZE, WIDTH, HEADS, EMBED_DIM = 300, 32, 4, 24
MAPPER_HEADS = 2

#: An open_clip configuration of an encoder with embeddings of EMBED_DIM.
ENCODER = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {
                "to_queries": nn.Linear(width, width, bias=False),
                "to_keys_values": nn.Linear(width, 2 * width, bias=False),
                "project": nn.Linear(width, width),
            }
        )
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)}
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        rows, places, width = y.shape
        head = width // MAPPER_HEADS
        q = self.attn["to_queries"](y).reshape(rows, places, MAPPER_HEADS, head)
        kv = self.attn["to_keys_values"](y).reshape(rows, places, 2, MAPPER_HEADS, head)
        scores = torch.einsum("bnhd,bmhd->bhnm", q, kv[:, :, 0]) / head**0.5
        mixed = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), kv[:, :, 1])
        x = x + self.attn["project"](mixed.reshape(rows, places, width))
        return x + self.mlp["fc2"](F.relu(self.mlp["fc1"](self.norm2(x))))


class TransformerMapper(nn.Module):
    """3 positions of the embedding, 5 visual tokens, 2 layers."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(EMBED_DIM, 3 * width)
        self.prefix_const = nn.Parameter(torch.randn(5, width))
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(Block(width) for _ in range(2))

    def forward(self, embeddings: Tensor) -> Tensor:
        rows, width = len(embeddings), self.prefix_const.shape[1]
        x = self.linear(embeddings).view(rows, 3, width)
        x = torch.cat([x, self.prefix_const.expand(rows, -1, -1)], 1)
        layers: Any = self.transformer.layers
        for layer in layers:
            x = layer(x)
        return x[:, 3:]


class MlpMapper(nn.Module):
    """4 visual tokens."""

    def __init__(self) -> None:
        super().__init__()
        half = 4 * WIDTH // 2
        self.model = nn.Sequential(
            nn.Linear(EMBED_DIM, half), nn.Tanh(), nn.Linear(half, 4 * WIDTH)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.model(embeddings).view(len(embeddings), 4, WIDTH)


class Published(nn.Module):
    """A captioner as the public codes build it: `clip_project` and `gpt`."""

    def __init__(self, mapper: nn.Module, gpt: Any) -> None:
        super().__init__()
        self.clip_project = mapper
        self.gpt: Any = gpt
        with torch.no_grad():  # every part must matter to the logits
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        self.eval()

    @torch.no_grad()
    def logits(self, embeddings: Tensor, token_ids: Tensor) -> Tensor:
        embedded = self.gpt.get_input_embeddings()(token_ids)
        inputs = torch.cat([self.clip_project(embeddings), embedded], 1)
        return self.gpt(inputs_embeds=inputs).logits


def opt(**options: Any) -> OPTForCausalLM:
    values = {"max_position_embeddings": 256, "word_embed_proj_dim": WIDTH, **options}
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=WIDTH,
            num_hidden_layers=2,
            ffn_dim=48,
            num_attention_heads=HEADS,
            dropout=0.0,
            **values,
        )
    )


def gpt2(**options: Any) -> GPT2LMHeadModel:
    values: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "n_embd": WIDTH,
        "n_layer": 2,
        "n_positions": 128,
        "n_head": HEADS,
        "bos_token_id": 299,
        "eos_token_id": 299,
    }
    return GPT2LMHeadModel(GPT2Config(**{**values, **options}))


def altogether(width: int = WIDTH, **options: Any) -> Published:
    torch.manual_seed(0)
    return Published(TransformerMapper(width), opt(**options))


def clipcap(mapper: str) -> Published:
    torch.manual_seed(1)
    return Published(MlpMapper() if mapper == "mlp" else TransformerMapper(), gpt2())


def with_buffers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as old versions of transformers dumped it, with GPT-2's attention masks."""
    buffers = {}
    for layer in range(2):
        name = f"gpt.transformer.h.{layer}.attn"
        buffers[f"{name}.bias"] = torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril()
        buffers[f"{name}.masked_bias"] = torch.tensor(-1e4)
    return {**state, **buffers}


def training_checkpoint(state: dict[str, Tensor]) -> dict[str, Any]:
    """What a distributed training run saves."""
    import argparse

    return {
        "epoch": 2,
        "args": argparse.Namespace(lr=2e-4),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        "model": {f"module.{name}": tensor for name, tensor in state.items()},
    }


def write_tokenizer(folder: Path, family: str) -> Path:
    """vocab.json and merges.txt of a byte-level tokenizer with the family's special tokens."""
    folder.mkdir(exist_ok=True)
    first = ["<s>", "<pad>", "</s>", "<unk>"] if family == "opt" else []
    tokens = first + sorted(pre_tokenizers.ByteLevel.alphabet()) + ["Ġt", "he", "Ġthe", "##"]
    vocab = {token: index for index, token in enumerate(tokens)}
    if family == "gpt2":
        vocab["<|endoftext|>"] = 299
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    merges = "#version: 0.2\n# #\nĠ t\nh e\nĠt he\n"
    (folder / "merges.txt").write_text(merges, "utf-8")
    return folder
