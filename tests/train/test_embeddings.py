"""Embeddings beside a run: a kill leaves a file that is gone on with; the bound is in bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from altogether_rt.config import EncoderConfig, VitConfig
from altogether_rt.model.encoder import Encoder, build_encoder
from altogether_rt.train.compute.embeddings import EmbeddingCache, SomeEmbeddings
from altogether_rt.train.data import ScenesDataset
from altogether_rt.train.prepared import PreparedImages, prepare_images

ROW = 16 * 8 * 4  # bytes: 4 × 4 patches of 8 float32 values


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    vit = VitConfig(width=8, layers=1, heads=2, ffn_width=16, patch_size=4)
    return build_encoder(EncoderConfig("tiny", 8, image_size=16, normalize=False, vit=vit))


@pytest.fixture(scope="module")
def images(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    folder = tmp_path_factory.mktemp("images")
    return prepare_images(ScenesDataset(5, 1), encoder.config, folder, lambda _: None)


def cache(
    encoder: Encoder, images: PreparedImages, folder: Path, max_bytes: int | None = None
) -> tuple[EmbeddingCache, Path]:
    made = EmbeddingCache(encoder, images, folder, lambda _: None, max_bytes=max_bytes)
    (path,) = folder.glob("embeddings-5-*.raw")
    return made, path


def test_embeddings_are_those_of_the_encoder(
    encoder: Encoder, images: PreparedImages, tmp_path: Path
) -> None:
    made, path = cache(encoder, images, tmp_path)
    assert path.stat().st_size == 5 * ROW
    with torch.no_grad():
        wanted = encoder(torch.from_numpy(images.take([3, 1]))).numpy()
    np.testing.assert_allclose(made.take([3, 1]), wanted, rtol=1e-4, atol=1e-5)
    assert np.array_equal(SomeEmbeddings(made, [4, 1]).take([1]), made.take([1]))


@pytest.mark.parametrize("size", [0, ROW, 2 * ROW + 7, 5 * ROW])
def test_a_file_that_a_kill_cut_off_is_gone_on_with(
    encoder: Encoder, images: PreparedImages, tmp_path: Path, size: int
) -> None:
    _, path = cache(encoder, images, tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    cache(encoder, images, tmp_path)
    assert path.read_bytes() == whole


def test_an_encoder_that_computes_something_else_has_a_file_of_its_own(
    encoder: Encoder, images: PreparedImages, tmp_path: Path
) -> None:
    """The same weights behind another mean of the pixels."""
    config = dataclasses.replace(encoder.config, mean=(0.1, 0.2, 0.3))
    other = Encoder(config, encoder.visual).eval()
    first = EmbeddingCache(encoder, images, tmp_path, lambda _: None).take([0])
    second = EmbeddingCache(other, images, tmp_path, lambda _: None).take([0])
    with torch.no_grad():
        wanted = other(torch.from_numpy(images.take([0]))).numpy()
    np.testing.assert_allclose(second, wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_what_is_not_kept_has_the_same_bits(
    encoder: Encoder, images: PreparedImages, tmp_path: Path, kept: int
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "bounded").mkdir()
    whole, _ = cache(encoder, images, tmp_path / "whole")
    bounded, path = cache(encoder, images, tmp_path / "bounded", kept * ROW + 3)
    assert path.stat().st_size == kept * ROW
    order = [4, 0, 2, 2]
    assert np.array_equal(bounded.take(order), whole.take(order))
