"""Tiny bundles, made once for all tests of the runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from altogether_rt.artifacts.bundle import Bundle

BundleOf = Callable[[str, str], Bundle]


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """bundle_of(family, target), with the weights of `tiny_model(config, seed=0)`."""
    # Here, because the lean environment collects this folder and has no torch.
    from altogether_rt.export.bundling import write_bundle
    from altogether_rt.export.recipes import find_recipe
    from tests.tiny import tiny_config, tiny_encoder_traced_once, tiny_samples, tiny_source

    made: dict[tuple[str, str], Bundle] = {}

    def bundle(family: str, target: str) -> Bundle:
        key = (family, target)
        if key not in made:
            folder: Path = tmp_path_factory.mktemp("bundle")
            source = tiny_source(tiny_config(family), folder)
            with tiny_encoder_traced_once():
                made[key] = write_bundle(source, find_recipe(target), folder / "b", tiny_samples())
        return made[key]

    return bundle
