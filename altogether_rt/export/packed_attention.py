"""Self-attention of an image encoder as one operator on (N, S, W), without moving its data.

Torch's `nn.MultiheadAttention` puts the sequence first, separates queries, keys and values by a
transpose, and heads by another: on a GPU that moves three times as many bytes as the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["packed_attention"]


@contextmanager
def packed_attention(module: nn.Module) -> Iterator[int]:
    """While this lasts, the attentions within `module` are traced as the operator; how many are.

    Those that it does not compute stay as they are: cross-attention, masks, attention weights.
    """
    packed = [child for child in module.modules() if _is_plain(child)]
    for child in packed:
        child.forward = _Packed(child)  # torch calls the instance's own
    try:
        yield len(packed)
    finally:
        for child in packed:
            del child.forward


def _is_plain(child: nn.Module) -> bool:
    """Whether it is torch's own, batch first, with one matrix for queries, keys and values."""
    return (
        type(child) is nn.MultiheadAttention
        and child.batch_first
        and child._qkv_same_embed_dim
        and child.bias_k is None
        and not child.add_zero_attn
        and not child.training
    )


class _Packed:
    """The forward pass of one attention."""

    def __init__(self, module: nn.Module) -> None:
        assert isinstance(module, nn.MultiheadAttention)
        self._module = module

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """See `nn.MultiheadAttention.forward`."""
        module = self._module
        masked = key_padding_mask is not None or attn_mask is not None or others.get("is_causal")
        if query is not key or key is not value or need_weights or masked or query.ndim != 3:
            masks: dict[str, Any] = {"key_padding_mask": key_padding_mask, "attn_mask": attn_mask}
            plain = nn.MultiheadAttention.forward
            return plain(module, query, key, value, need_weights=need_weights, **masks, **others)
        q, k, v = F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
        heads = module.num_heads
        mixed, *_ = torch.onnx.ops.attention(q, k, v, q_num_heads=heads, kv_num_heads=heads)
        out: Tensor = module.out_proj(mixed)
        return out, None
