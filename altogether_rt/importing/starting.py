"""Captioners to start training from: random weights, or a published decoder and encoder with a
random mapper."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from altogether_rt.config import CaptionerConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.importing.encoders import embedded_encoder
from altogether_rt.importing.huggingface import decoder_from_hf
from altogether_rt.importing.structure import check_fit
from altogether_rt.model.decoder import Decoder
from altogether_rt.model.mapper import build_mapper

__all__ = ["starting_captioner"]


def starting_captioner(
    config: CaptionerConfig,
    *,
    seed: int = 0,
    decoder: str | None = None,
    embed_encoder: bool = True,
    encoder_weights: str | None = None,
) -> tuple[CaptionerConfig, dict[str, Tensor]]:
    """A captioner's configuration and the state dict of its checkpoint.

    decoder: a Hugging Face folder or hub id, which replaces the configuration's decoder; None:
    random weights. embed_encoder: include the encoder's weights, those of the file
    `encoder_weights` or random ones. Raises AltogetherError if a part cannot be read or fetched, or
    if the decoder does not match the configuration.
    """
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}
    if decoder is not None:
        structure, weights = decoder_from_hf(decoder)
        config = _with_decoder(config, dataclasses.replace(config, decoder=structure))
        state |= {f"decoder.{name}": tensor for name, tensor in weights.items()}
    if embed_encoder:  # before mapper and decoder: open_clip also builds a text tower at first
        state |= embedded_encoder(config.encoder, encoder_weights)
    state |= {f"mapper.{k}": v for k, v in build_mapper(config).state_dict().items()}
    if decoder is None:
        state |= {f"decoder.{k}": v for k, v in Decoder(config.decoder).state_dict().items()}
    check_fit(config, state)
    return config, state


def _with_decoder(base: CaptionerConfig, config: CaptionerConfig) -> CaptionerConfig:
    """`config`, after a check that its decoder is of the family whose token ids `base` contains."""
    ids = (*base.prompt.suffix_ids, *base.generation.stop_ids)
    if ids and base.decoder.family != config.decoder.family:
        raise AltogetherError(
            f"the configuration {base.name} has token ids of {base.decoder.family} (stop_ids or "
            f"suffix_ids), not of {config.decoder.family}: start from another --config."
        )
    return config
