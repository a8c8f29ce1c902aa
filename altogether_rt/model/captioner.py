"""The captioner in PyTorch: frozen encoder (optional), mapper and decoder in one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from altogether_rt.config import CaptionerConfig
from altogether_rt.model.decoder import Decoder
from altogether_rt.model.mapper import build_mapper

__all__ = ["CaptionerModel"]


class CaptionerModel(nn.Module):
    """Mapper and decoder with freshly initialised weights, and the encoder if one is given.

    Training works on embeddings computed beforehand, so the encoder may be None. It is frozen: its
    parameters are not trained.
    """

    def __init__(self, config: CaptionerConfig, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = None if encoder is None else encoder.eval().requires_grad_(False)
        self.mapper = build_mapper(config)
        self.decoder = Decoder(config.decoder)

    def train(self, mode: bool = True) -> CaptionerModel:
        """Set training mode everywhere but in the frozen encoder."""
        super().train(mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    def encode(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, H, W, 3) -> embeddings (N, E) or (N, patches, E); no gradient."""
        assert self.encoder is not None, "this captioner was built without its encoder"
        with torch.no_grad():
            embeddings: Tensor = self.encoder(pixels)
        return embeddings

    def visual_tokens(self, embeddings: Tensor) -> Tensor:
        """embeddings, as `encode` gives them -> visual tokens (B, P, W)."""
        tokens: Tensor = self.mapper(embeddings)
        return tokens

    def hidden(self, visual_tokens: Tensor, token_ids: Tensor) -> Tensor:
        """Decoder states (B, F + P + T, W) of the sequences [before_ids, visual tokens, token ids].

        F is the number of `prompt.before_ids`, which is 0 in most captioners. token_ids is int64
        (B, T), padded on the right with any valid id: attention is causal, so padding on the right
        changes nothing before it.
        """
        embedded = self.decoder.embed(token_ids)
        parts = [visual_tokens.to(embedded.dtype), embedded]
        if before := self.config.prompt.before_ids:
            ids = torch.tensor(before, device=token_ids.device).expand(len(token_ids), -1)
            parts.insert(0, self.decoder.embed(ids))
        states: Tensor = self.decoder(torch.cat(parts, 1))
        return states

    def logits(
        self, visual_tokens: Tensor, token_ids: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Next-token logits of [before_ids, visual tokens (B, P, W), token ids (B, T)].

        Without `positions`: (B, F + P + T, vocab). With `positions`, int64 (N, 2) of pairs (row,
        position in the sequence): (N, vocab). The logits at position p predict the token at
        position p + 1, so a loss on the caption asks for the positions just before its tokens, and
        the head runs on those alone.
        """
        states = self.hidden(visual_tokens, token_ids)
        if positions is not None:
            states = states[positions[:, 0], positions[:, 1]]
        return self.decoder.logits(states)
