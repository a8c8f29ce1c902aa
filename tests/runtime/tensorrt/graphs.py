"""Graphs of any configuration with random weights, without a checkpoint or a torch decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from altogether_rt.config import CaptionerConfig
from altogether_rt.export.bundling import write_graphs
from altogether_rt.export.lowering.choice import build_lowering
from altogether_rt.export.recipes import find_recipe
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import build_encoder

__all__ = ["RandomWeights", "write_random_graphs"]


class RandomWeights:
    """Every tensor of a captioner but its encoder's, drawn when it is asked for."""

    def __init__(self, config: CaptionerConfig) -> None:
        with torch.device("meta"):
            state = CaptionerModel(config).state_dict()
        self._shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        self._rng = np.random.default_rng(0)

    def get(self, name: str) -> NDArray[np.float32]:
        return 0.02 * self._rng.standard_normal(self._shapes[name], np.float32)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes


def write_random_graphs(config: CaptionerConfig, target: str, folder: Path) -> None:
    """The three graphs of `config` for `target`, in `folder`."""
    lowering = build_lowering(find_recipe(target).lowering)
    write_graphs(config, RandomWeights(config), build_encoder(config.encoder), lowering, folder)
