"""Smoothing: moves outliers from activations, where they cost precision, into weights.

An activation channel far larger than the others uses up the int8 range of its row. Dividing the
channel by a factor where it is produced, and multiplying the weights that read it by the same
factor, leaves the model's results unchanged (SmoothQuant, Xiao et al. 2023, arXiv 2211.10438). The
division is folded into weights too: of a norm, of attention's values, of the layer before a ReLU.
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
#: Upper bound of a smoothing factor.
_MAX_FACTOR = 1e4


@dataclass(frozen=True)
class _Pair:
    """Weights that produce channels, and weights that read them."""

    producers: tuple[str, ...]  # (channels, ·) matrices and (channels,) vectors: divided
    readers: tuple[str, ...]  # linear layers, (·, channels) matrices: multiplied
    #: How many of the producers' rows, counted from the end, are the channels; None: all of them.
    last: int | None = None


class SmoothedWeights:
    """The tensors of a checkpoint, equivalent to those of `weights` but easier to quantise.

    strength: the paper's alpha; 0 changes nothing, 1 makes all activation channels equally large.
    """

    def __init__(
        self,
        weights: WeightSource,
        config: CaptionerConfig,
        calibration: Calibration,
        strength: float,
        *,
        decoder: bool = True,
    ) -> None:
        """decoder: whether its weights change too, not only the mapper's."""
        self._weights = weights
        self._calibration = calibration
        self._strength = strength
        self._divided: dict[str, tuple[_Pair, Floats]] = {}  # by name of the tensor
        self._multiplied: dict[str, Floats] = {}
        pairs = _mapper_pairs(config) + (_decoder_pairs(config.decoder) if decoder else [])
        for pair in pairs if strength > 0 else []:
            factors = self._factors(pair)
            for producer in pair.producers:
                self._divided[producer] = (pair, factors)
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

    def input_factors(self, name: str) -> Floats | None:
        """What the input channels of a linear layer are divided by, (in,); None: nothing."""
        return self._multiplied.get(f"{name}.weight")

    def input_rows(self, name: str) -> Floats | None:
        """Some inputs of a linear layer with these weights, (rows, in); None: none were kept."""
        rows = self._calibration.rows.get(name)
        factors = self.input_factors(name)
        if rows is None:
            return None
        return rows.astype(np.float32) / (1 if factors is None else factors)

    def input_ranges(self) -> dict[str, float]:
        """Largest absolute input of each linear layer of mapper and decoder with these weights."""
        return {
            name: float((seen / self._multiplied.get(f"{name}.weight", 1)).max())
            for name, seen in self._calibration.inputs.items()
        }

    def keys(self, layer: int) -> Floats:
        """Largest cached keys of a decoder layer, (kv_heads, head_dim); smoothing keeps them."""
        return self._calibration.keys[layer]

    def values(self, layer: int) -> Floats:
        """Largest cached values of a decoder layer with these weights, (kv_heads, head_dim)."""
        seen = self._calibration.values[layer]
        producer = f"decoder.layers.{layer}.v.weight"
        if producer not in self._divided:
            return seen
        return seen / self._divided[producer][1].reshape(seen.shape)

    def _factors(self, pair: _Pair) -> Floats:
        weight = np.max(
            [np.abs(self._weights.get(f"{name}.weight")).max(axis=0) for name in pair.readers],
            axis=0,
        )
        return smoothing_factors(self._calibration.inputs[pair.readers[0]], weight, self._strength)


def smoothing_factors(activation: Floats, weight: Floats, strength: float) -> Floats:
    """A factor per channel: max |x| ** strength / max |w| ** (1 - strength), over their median.

    activation, weight: the largest absolute values per channel. Factors below 1 are raised to 1:
    the paper's formula also enlarges small channels, but a channel that is small on the samples may
    be large on other inputs, and enlarging it would create an outlier (measured on a random
    OPT-125M with prompts unlike the samples: cosine of the logits 0.98 instead of 0.999).
    """
    seen = (activation > 0) & (weight > 0)
    ratio = np.where(seen, activation, 1) ** strength
    ratio /= np.where(seen, weight, 1) ** (1 - strength)
    typical = np.median(ratio[seen]) if seen.any() else 1.0
    return np.where(seen, np.clip(ratio / typical, 1, _MAX_FACTOR), 1).astype(np.float32)


def _decoder_pairs(config: DecoderConfig) -> list[_Pair]:
    pairs = []
    for index in range(config.layers):
        name = f"decoder.layers.{index}"
        bias = ("bias",) if config.bias else ()
        if config.norm_placement == "pre":  # in post-norm layers the residual reads the norm too
            norm = ("weight", "bias") if config.norm == "layernorm" else ("weight",)
            inner = (f"{name}.gate",) if config.gated else ()
            for norm_name, readers in (
                ("norm1", (f"{name}.q", f"{name}.k", f"{name}.v")),
                ("norm2", (*inner, f"{name}.fc1")),
            ):
                pairs.append(_Pair(tuple(f"{name}.{norm_name}.{part}" for part in norm), readers))
        if config.num_kv_heads == config.heads:
            producers = tuple(f"{name}.v.{part}" for part in ("weight", *bias))
            pairs.append(_Pair(producers, (f"{name}.out",)))
        if config.gated or config.activation == "relu":
            producers = tuple(f"{name}.fc1.{part}" for part in ("weight", *bias))
            pairs.append(_Pair(producers, (f"{name}.fc2",)))
    return pairs


def _mapper_pairs(config: CaptionerConfig) -> list[_Pair]:
    if config.mapper.kind != "transformer":
        return []
    pairs = []
    for index in range(config.mapper.layers):
        name = f"mapper.layers.{index}"
        for norm, readers in (("norm1", ("q", "kv")), ("norm2", ("fc1",))):
            producers = tuple(f"{name}.{norm}.{part}" for part in ("weight", "bias"))
            pairs.append(_Pair(producers, tuple(f"{name}.{reader}" for reader in readers)))
        width = config.decoder.token_width
        pairs.append(_Pair((f"{name}.kv.weight",), (f"{name}.out",), last=width))
        producers = tuple(f"{name}.fc1.{part}" for part in ("weight", "bias"))
        pairs.append(_Pair(producers, (f"{name}.fc2",)))
    return pairs
