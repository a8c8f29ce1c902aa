"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) in the layers of a decoder."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from altogether_rt.errors import AltogetherError, MissingDependencyError
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.captioner import CaptionerModel

__all__ = ["add_lora", "check_peft", "merge_lora"]

#: Names under which PEFT, and what was published with it, keeps the two factors of a layer.
_LORA = re.compile(r"(.+)\.lora_(A|B)\.default\.weight$")


def check_peft() -> None:
    """Raise MissingDependencyError without PEFT."""
    make_torchvision_importable()  # PEFT imports transformers, which imports it
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("peft", "lora", "fine-tuning with --lora") from error


def add_lora(captioner: CaptionerModel, rank: int, alpha: int) -> None:
    """Put adapters beside every linear layer of the decoder's blocks.

    They are trained instead of the decoder's own weights; the mapper is trained as before. Raises
    MissingDependencyError without PEFT.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    decoder = captioner.decoder.requires_grad_(False)
    names = [
        name
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("layers.")
    ]
    recipe = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=names)
    inject_adapter_in_model(recipe, decoder)


def merge_lora(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The state with every pair of low-rank adapters added to its layer: W + scale · B A.

    scale: alpha / r. A state without adapters is returned as it is.
    """
    merged = {
        key.replace(".base_layer.", "."): tensor
        for key, tensor in state.items()
        if not _LORA.match(key)
    }
    for key, up in state.items():
        found = _LORA.match(key)
        if found is None or found[2] != "B":
            continue
        down, weight = state.get(f"{found[1]}.lora_A.default.weight"), f"{found[1]}.weight"
        if down is None or weight not in merged:
            raise AltogetherError(f"the weights contain {key!r} without the layer it belongs to.")
        merged[weight] = merged[weight].float() + scale * (up.float() @ down.float())
    return merged
