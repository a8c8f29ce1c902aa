"""Smoothing: outliers move from activations, where they cost precision, into weights.

An activation channel far larger than the others takes all of a row's int8 range. Dividing it by a
factor where it is made, and multiplying the weights that read it by the same factor, changes
nothing that the model computes (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438). Both ends are
weights here: of a norm, of the values that attention mixes, or of the layer before a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig, DecoderConfig
from altogether_rt.export.calibration.observe import Calibration
from altogether_rt.export.weights import WeightSource

__all__ = ["SmoothedWeights", "smoothing_factors"]

Floats = NDArray[np.float32]
#: No factor is beyond this.
_MOST = 1e4


@dataclass(frozen=True)
class _Pair:
    """Weights that make channels, and weights that read them."""

    makers: tuple[str, ...]  # (channels, ·) matrices and (channels,) vectors: divided
    readers: tuple[str, ...]  # linear layers, (·, channels) matrices: multiplied
    #: The makers' channels are the last so many of their rows; None: all of them.
    last: int | None = None


class SmoothedWeights:
    """A checkpoint's tensors, equivalent to those of `weights` and easier to quantise.

    strength: the paper's alpha; 0 moves nothing, 1 makes all activation channels equal.
    """

    def __init__(
        self,
        weights: WeightSource,
        config: CaptionerConfig,
        calibration: Calibration,
        strength: float,
    ) -> None:
        self._weights = weights
        self._calibration = calibration
        self._strength = strength
        self._divided: dict[str, tuple[_Pair, Floats]] = {}  # tensor name -> its factors
        self._multiplied: dict[str, Floats] = {}
        pairs = _mapper_pairs(config) + _decoder_pairs(config.decoder)
        for pair in pairs if strength > 0 else []:
            factors = self._factors(pair)
            for maker in pair.makers:
                self._divided[maker] = (pair, factors)
            for reader in pair.readers:
                self._multiplied[f"{reader}.weight"] = factors

    def get(self, name: str) -> Floats:
        """The tensor as float32. Raises KeyError if there is none."""
        tensor = self._weights.get(name)
        if name in self._divided:
            pair, factors = self._divided[name]
            divisors = np.ones(len(tensor), np.float32)
            divisors[len(tensor) - (pair.last or len(tensor)) :] = factors
            tensor = (tensor.T / divisors).T
        if name in self._multiplied:
            tensor = tensor * self._multiplied[name]
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def input_ranges(self) -> dict[str, float]:
        """Largest input of each linear layer of mapper and decoder with these weights."""
        return {
            name: float((seen / self._multiplied.get(f"{name}.weight", 1)).max())
            for name, seen in self._calibration.inputs.items()
        }

    def keys(self, layer: int) -> Floats:
        """Largest cached keys of a decoder layer, (kv_heads, head_dim): smoothing leaves them."""
        return self._calibration.keys[layer]

    def values(self, layer: int) -> Floats:
        """Largest cached values of a decoder layer with these weights, (kv_heads, head_dim)."""
        seen = self._calibration.values[layer]
        maker = f"decoder.layers.{layer}.v.weight"
        if maker not in self._divided:
            return seen
        return seen / self._divided[maker][1].reshape(seen.shape)

    def _factors(self, pair: _Pair) -> Floats:
        weight = np.max(
            [np.abs(self._weights.get(f"{name}.weight")).max(axis=0) for name in pair.readers],
            axis=0,
        )
        return smoothing_factors(self._calibration.inputs[pair.readers[0]], weight, self._strength)


def smoothing_factors(activation: Floats, weight: Floats, strength: float) -> Floats:
    """One a channel: max |x| ** strength / max |w| ** (1 - strength), over the median of all.

    activation, weight: the largest values by channel. Where the factor is below 1 it is 1: the
    paper's formula also makes small channels larger, but a channel that the samples hardly excite
    may be excited by other inputs, and would then be an outlier of our own making (logits' cosine
    0.98 instead of 0.999, random OPT-125M, prompts unlike the samples).
    """
    seen = (activation > 0) & (weight > 0)
    ratio = np.where(seen, activation, 1) ** strength
    ratio /= np.where(seen, weight, 1) ** (1 - strength)
    typical = np.median(ratio[seen]) if seen.any() else 1.0
    return np.where(seen, np.clip(ratio / typical, 1, _MOST), 1).astype(np.float32)


def _decoder_pairs(config: DecoderConfig) -> list[_Pair]:
    pairs = []
    for index in range(config.layers):
        name = f"decoder.layers.{index}"
        bias = ("bias",) if config.bias else ()
        if config.norm_placement == "pre":  # otherwise the residual reads the norm's output too
            norm = ("weight", "bias") if config.norm == "layernorm" else ("weight",)
            inner = (f"{name}.gate",) if config.gated else ()
            for maker, readers in (
                ("norm1", (f"{name}.q", f"{name}.k", f"{name}.v")),
                ("norm2", (*inner, f"{name}.fc1")),
            ):
                pairs.append(_Pair(tuple(f"{name}.{maker}.{part}" for part in norm), readers))
        if config.num_kv_heads == config.heads:
            makers = tuple(f"{name}.v.{part}" for part in ("weight", *bias))
            pairs.append(_Pair(makers, (f"{name}.out",)))
        if config.gated or config.activation == "relu":
            makers = tuple(f"{name}.fc1.{part}" for part in ("weight", *bias))
            pairs.append(_Pair(makers, (f"{name}.fc2",)))
    return pairs


def _mapper_pairs(config: CaptionerConfig) -> list[_Pair]:
    if config.mapper.kind != "transformer":
        return []
    pairs = []
    for index in range(config.mapper.layers):
        name = f"mapper.layers.{index}"
        for maker, readers in (("norm1", ("q", "kv")), ("norm2", ("fc1",))):
            makers = tuple(f"{name}.{maker}.{part}" for part in ("weight", "bias"))
            pairs.append(_Pair(makers, tuple(f"{name}.{reader}" for reader in readers)))
        width = config.decoder.token_width
        pairs.append(_Pair((f"{name}.kv.weight",), (f"{name}.out",), last=width))
        makers = tuple(f"{name}.fc1.{part}" for part in ("weight", "bias"))
        pairs.append(_Pair(makers, (f"{name}.fc2",)))
    return pairs
