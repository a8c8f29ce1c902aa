"""SmolVLM's published format at a small size, with random weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import nn

from altogether_rt.model._torchvision import make_torchvision_importable

__all__ = ["SPECIAL", "TEXT", "VISION", "byte_tokenizer", "random_weights", "write_smolvlm"]

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<image>"),
    *("<global-img>", "<end_of_utterance>"),
)
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000.0,
    "pad_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "patch_size": 4,
    "image_size": 34,  # two pixels beyond the last patch are not seen
}


def byte_tokenizer(special: Sequence[str] = SPECIAL) -> Tokenizer:
    """A token for each byte, and one for two line breaks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate((*special, *alphabet, "ĊĊ"))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def random_weights(model: nn.Module) -> None:
    """Large enough that every part matters to the logits."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * noise + ("norm" in name and name.endswith("weight")))
            else:
                parameter.copy_(0.15 * noise)


def write_smolvlm(
    folder: Path,
    kind: Literal["Idefics3", "SmolVLM"] = "SmolVLM",
    special: Sequence[str] = SPECIAL,
) -> Any:
    """Write the folder of a published model, and return the model itself."""
    make_torchvision_importable()
    import transformers

    tokenizer = byte_tokenizer(special)
    config = getattr(transformers, f"{kind}Config")(
        text_config={"model_type": "llama", "vocab_size": tokenizer.get_vocab_size(), **TEXT},
        vision_config=VISION,
        scale_factor=2,
        image_token_id=tokenizer.token_to_id("<image>"),
        tie_word_embeddings=False,
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    random_weights(model)
    model.save_pretrained(folder)
    eos = tokenizer.token_to_id("<end_of_utterance>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    tokenizer.save(str(folder / "tokenizer.json"))
    return model
