"""Folders of public captioners, with random weights and a real tokenizer."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn

from altogether_rt.model._torchvision import make_torchvision_importable
from vlm.structures import Structure

__all__ = ["transformers_class", "write_folder"]

_SHARD_BYTES = 1 << 30
_ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")


def write_folder(structure: Structure, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that its page on the hub has.

    tokenizer: SmolLM's, whose special tokens are added to as the captioner's are. Weights are drawn
    one tensor at a time, so memory is that of a shard.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(structure.config, indent=2), "utf-8")
    if structure.family == "smolvlm":
        _add_tokens(tokenizer, structure)
        end = tokenizer.token_to_id("<end_of_utterance>")
        generation = {"bos_token_id": 1, "eos_token_id": end, "pad_token_id": 2}
        (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
        _write_processor(structure, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_shards(list(_tensors(structure)), folder, getattr(torch, structure.dtype))


def transformers_class(structure: Structure) -> Any:
    """The class of a SmolVLM."""
    make_torchvision_importable()
    import transformers

    kind = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[structure.config["model_type"]]
    return getattr(transformers, f"{kind}ForConditionalGeneration")


def _add_tokens(tokenizer: Tokenizer, structure: Structure) -> None:
    if structure.named_tiles:
        tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
        names = ["<global-img>", *tiles, "<fake_token_around_image>", "<image>"]
        left = structure.config["vocab_size"] - tokenizer.get_vocab_size() - len(names) - 1
        names += [f"<|reserved_special_token_{index}|>" for index in range(left)]
    else:
        names = ["<fake_token_around_image>", "<image>"]
    names.append("<end_of_utterance>")
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    assert tokenizer.get_vocab_size() == structure.config["vocab_size"]
    assert tokenizer.token_to_id("<image>") == structure.config["image_token_id"]


def _write_processor(structure: Structure, folder: Path) -> None:
    vision, scale = structure.config["vision_config"], structure.config["scale_factor"]
    side = vision["image_size"]
    pixels = {
        "do_image_splitting": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": side},
        "processor_class": "Idefics3Processor",
        "resample": 1,
        "size": {"longest_edge": 4 * side},
    }
    length = (side // vision["patch_size"] // scale) ** 2
    processor = {"image_seq_len": length, "processor_class": "Idefics3Processor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), "utf-8")
    (folder / "processor_config.json").write_text(json.dumps(processor), "utf-8")


def _tensors(structure: Structure) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, as transformers' own classes have them."""
    make_torchvision_importable()
    import transformers

    about = structure.config
    with torch.device("meta"):
        if structure.family == "smolvlm":
            kind = transformers_class(structure)
            yield from _shapes(kind(kind.config_class.from_dict(dict(about))), "")
            return
        vision = transformers.SiglipVisionConfig(**about["vision_config"])
        text = transformers.LlamaConfig(**about["text_config"])
        yield from _shapes(transformers.SiglipVisionModel(vision), "vision_encoder.")
        yield from _shapes(
            nn.Linear(vision.hidden_size, text.hidden_size), "projection.projection."
        )
        language = transformers.LlamaForCausalLM(text)
    prefix, rank = "language_model.base_model.model.", about["lora_r"]
    for name, shape in _shapes(language, prefix):
        module = name.removesuffix(".weight")
        if module.endswith(_ADAPTED):
            yield f"{module}.base_layer.weight", shape
            yield f"{module}.lora_A.default.weight", (rank, shape[1])
            yield f"{module}.lora_B.default.weight", (shape[0], rank)
        elif name != f"{prefix}lm_head.weight":  # tied: it is not stored twice
            yield name, shape


def _shapes(module: nn.Module, prefix: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in module.state_dict().items():
        yield prefix + name, tuple(tensor.shape)


def _draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Weights that keep the size of what passes through them, from a seed that is their name."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if len(shape) == 1:
        return 0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    if "embed" in name and "patch_embedding" not in name:
        # Of size 1, as what the norms give; where it is the head too, small, or a token would
        # predict itself.
        return noise * (0.1 if name.startswith("language_model.") else 1.0)
    return noise / math.sqrt(math.prod(shape[1:]))


def _write_shards(
    shapes: list[tuple[str, tuple[int, ...]]], folder: Path, dtype: torch.dtype
) -> None:
    shards: list[list[str]] = []
    held: dict[str, Tensor] = {}

    def write() -> None:
        save_file(held, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, shape in shapes:
        held[name] = _draw(name, shape).to(dtype)
        if sum(tensor.nbytes for tensor in held.values()) > _SHARD_BYTES:
            write()
    if held:
        write()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    files = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        (folder / f"shard-{index}").rename(folder / file)
        files |= dict.fromkeys(names, file)
    about = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(about), "utf-8")
