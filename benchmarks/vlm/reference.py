"""What transformers' own classes make of an image, in float32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from altogether_rt.model._torchvision import make_torchvision_importable
from vlm.folder import transformers_class
from vlm.structures import Structure

__all__ = ["Answer", "DistilVit", "Reference", "open_reference"]


@dataclass(frozen=True)
class Answer:
    """Each stage of one caption."""

    embedding: NDArray[np.float32]  # (patches, E)
    visual_tokens: NDArray[np.float32]  # (P, W)
    logits: NDArray[np.float32]  # (visual tokens and prompt, vocabulary)
    written: tuple[int, ...]  # greedy, without the end token


class Reference:
    """A captioner that transformers runs."""

    def __init__(self, eos_id: int) -> None:
        self.eos_id = eos_id

    def stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels (tiles, 3, H, W) to patch tokens and visual tokens of each tile."""
        raise NotImplementedError

    def logits(self, pixels: Tensor, ids: Sequence[int]) -> Tensor:
        """Logits after each token; SmolVLM's ids have a token for each visual token."""
        raise NotImplementedError

    def write(self, pixels: Tensor, ids: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation."""
        raise NotImplementedError

    @torch.no_grad()
    def answer(self, pixels: NDArray[np.uint8], ids: Sequence[int], max_tokens: int) -> Answer:
        """pixels: (tiles, H, W, 3), as the image processor made them, before normalisation."""
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        normalised = (image - 0.5) / 0.5
        embedding, tokens = self.stages(normalised)
        written = self.write(normalised, ids, max_tokens)
        if self.eos_id in written:
            written = written[: written.index(self.eos_id)]
        logits = self.logits(normalised, ids).numpy()
        return Answer(embedding.numpy(), tokens.numpy(), logits, tuple(written))


def open_reference(structure: Structure, folder: Path) -> Reference:
    """Load the folder's weights into transformers' classes."""
    make_torchvision_importable()
    return _SmolVlm(structure, folder) if structure.family == "smolvlm" else DistilVit(folder)


class _SmolVlm(Reference):
    def __init__(self, structure: Structure, folder: Path) -> None:
        generation = json.loads((folder / "generation_config.json").read_text("utf-8"))
        super().__init__(generation["eos_token_id"])
        kind = transformers_class(structure)
        self.model = kind.from_pretrained(folder, dtype=torch.float32).eval()

    def stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.model.model
        embedding = inner.vision_model(pixel_values=pixels).last_hidden_state
        return embedding, inner.connector(embedding)

    def logits(self, pixels: Tensor, ids: Sequence[int]) -> Tensor:
        found: Tensor = self.model(input_ids=torch.tensor([ids]), pixel_values=pixels[None]).logits
        return found[0]

    def write(self, pixels: Tensor, ids: Sequence[int], max_tokens: int) -> list[int]:
        prompt = torch.tensor([ids])
        found = self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=pixels[None],
            max_new_tokens=max_tokens,
            do_sample=False,
        )
        written: list[int] = found[0, len(ids) :].tolist()
        return written


class _Adapted(nn.Module):
    """A layer with its adapter beside it: W x + scale · B A x."""

    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.register_buffer("down", down)
        self.register_buffer("up", up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One layer that computes the same."""
        self.base.weight += self.scale * self.up @ self.down
        return self.base

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.scale * (x @ self.down.T @ self.up.T)
        return y


class DistilVit(Reference):
    """DistilViT2: the parts that its published code puts together, adapters apart."""

    def __init__(self, folder: Path) -> None:
        import transformers

        about = json.loads((folder / "config.json").read_text("utf-8"))
        text = transformers.LlamaConfig(**about["text_config"])
        super().__init__(text.eos_token_id)
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

        def part(prefix: str) -> dict[str, Tensor]:
            found = {k: v for k, v in state.items() if k.startswith(prefix)}
            return {k.removeprefix(prefix): v for k, v in found.items()}

        vision = transformers.SiglipVisionConfig(**about["vision_config"])
        self.tower = transformers.SiglipVisionModel(vision).eval()
        self.tower.load_state_dict(part("vision_encoder."))
        self.projection = nn.Linear(vision.hidden_size, text.hidden_size)
        self.projection.load_state_dict(part("projection.projection."))
        self.language = transformers.LlamaForCausalLM(text).eval()
        self._load_language(part("language_model.base_model.model."), about)

    def _load_language(self, state: dict[str, Tensor], about: dict[str, Any]) -> None:
        base = {k.replace(".base_layer.", "."): v for k, v in state.items() if "lora_" not in k}
        base["lm_head.weight"] = base["model.embed_tokens.weight"]
        self.language.load_state_dict(base)
        scale = about["lora_alpha"] / about["lora_r"]
        for name in [k.partition(".lora_A")[0] for k in state if ".lora_A" in k]:
            parent, _, child = name.rpartition(".")
            owner = self.language.get_submodule(parent)
            down, up = (state[f"{name}.lora_{side}.default.weight"] for side in "AB")
            setattr(owner, child, _Adapted(getattr(owner, child), down, up, scale))

    def merge(self) -> None:
        """Add the adapters to their layers, as one would for speed."""
        for owner in list(self.language.modules()):
            for name, child in list(owner.named_children()):
                if isinstance(child, _Adapted):
                    setattr(owner, name, child.merged())

    def stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.tower(pixels).last_hidden_state
        return embedding, self.projection(embedding)

    def logits(self, pixels: Tensor, ids: Sequence[int]) -> Tensor:
        found: Tensor = self.language(inputs_embeds=self._embed(pixels, ids)).logits
        return found[0]

    def _embed(self, pixels: Tensor, ids: Sequence[int]) -> Tensor:
        text = self.language.get_input_embeddings()(torch.tensor([ids], dtype=torch.int64))
        return torch.cat([self.stages(pixels)[1], text], 1)

    def write(self, pixels: Tensor, ids: Sequence[int], max_tokens: int) -> list[int]:
        embedded = self._embed(pixels, ids)
        found = self.language.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.int64),
            max_new_tokens=max_tokens,
            do_sample=False,
        )
        written: list[int] = found[0].tolist()
        return written
