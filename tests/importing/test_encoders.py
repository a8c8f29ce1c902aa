"""The encoder that a captioner was trained with is found, described and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.importing.encoders import (
    check_encoder_weights,
    embedded_encoder,
    encoder_config,
    encoder_reference,
    published_weights,
)
from tests.importing.published import EMBED_DIM, ENCODER


@pytest.mark.parametrize(
    ("width", "name", "size", "family", "tag"),
    [
        (512, "ViT-B-32-quickgelu", 224, "gpt2", "openai"),
        (512, "ViT-B-32-quickgelu", 224, "opt", "metaclip_fullcc"),
        (640, "RN50x4-quickgelu", 288, "gpt2", "openai"),
        (1024, "ViT-H-14-quickgelu", 224, "opt", "metaclip_fullcc"),
    ],
)
def test_published_encoders_by_width(
    width: int, name: str, size: int, family: str, tag: str
) -> None:
    config = encoder_config(width, normalize=True)
    assert (config.name, config.image_size, config.normalize) == (name, size, True)
    assert published_weights(config.name, family) == tag
    check_encoder_weights(config, tag)  # open_clip has it


def test_pixels_are_those_of_the_weights() -> None:
    config = encoder_config(768, normalize=False, name="ViT-B-16-SigLIP", tag="webli")
    assert (config.mean, config.std, config.resize) == ((0.5,) * 3, (0.5,) * 3, "squash")
    assert not config.normalize


def test_a_configuration_of_ones_own_and_a_published_folder(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(ENCODER))
    config = encoder_config(EMBED_DIM, normalize=True, name=str(path))
    assert (config.name, config.image_size, config.model) == ("mine", 16, ENCODER)

    pixels = {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}
    description = {"model_cfg": ENCODER, "preprocess_cfg": pixels}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(description))
    name = f"local-dir:{tmp_path}"
    config = encoder_config(EMBED_DIM, normalize=True, name=name)
    assert (config.mean, config.resize, config.model) == ((0.1, 0.2, 0.3), "squash", None)
    assert published_weights(name, "opt") == name


def test_a_published_model_is_described_by_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a:b"  # as a hub's tags and Windows' drives have colons
    folder.mkdir()
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": ENCODER, "preprocess_cfg": {"std": [0.1, 0.2, 0.3]}}))

    def download(repository: str, file: str) -> str:
        assert (repository, file) == ("org/model", path.name)
        return str(path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    for name in ("hf-hub:org/model", f"local-dir:{folder}"):
        config = encoder_config(None, normalize=True, name=name)
        assert (config.name, config.embed_dim, config.std) == (name, EMBED_DIM, (0.1, 0.2, 0.3))
        check_encoder_weights(config, name)
    check_encoder_weights(config, str(path))  # a file is looked into when it is loaded


def test_an_embedded_encoder_has_the_weights_of_the_file(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    clip = open_clip.CLIP(**ENCODER)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    config = EncoderConfig("mine", EMBED_DIM, 16, model=ENCODER)
    state = embedded_encoder(config, str(tmp_path / "clip.pt"))
    for name, tensor in clip.visual.state_dict().items():
        assert torch.equal(state[f"encoder.{name}"], tensor)
    assert len(state) == len(clip.visual.state_dict())
    reference = encoder_reference(str(tmp_path / "clip.pt"))
    assert reference["encoder_file"] == "clip.pt"
    assert len(reference["encoder_sha256"]) == 64
    assert encoder_reference("openai") == {"encoder_weights": "openai"}
    assert encoder_reference(None) == {}

    (tmp_path / "clip.pt").write_bytes(b"\x80\x02garbage")
    with pytest.raises(AltogetherError, match=r"clip\.pt"):
        embedded_encoder(config, str(tmp_path / "clip.pt"))


def test_what_is_wrong_with_an_encoder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AltogetherError, match="no model 'ViT-X'"):
        encoder_config(512, normalize=True, name="ViT-X")
    with pytest.raises(ConfigError, match="embeddings of width 512, but the captioner takes 1024"):
        encoder_config(1024, normalize=True, name="ViT-B-32")
    for text in ("nonsense", "[]", "{}", '{"embed_dim": 24, "vision_cfg": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(AltogetherError, match=r"bad\.json"):
            encoder_config(24, normalize=True, name=str(tmp_path / "bad.json"))
    with pytest.raises(
        AltogetherError, match="neither a file nor one of open_clip's weights of ViT-B-32"
    ):
        check_encoder_weights(EncoderConfig("ViT-B-32", 512), "opnai")

    def unreachable(*args: str) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(AltogetherError, match="no route"):
        encoder_config(512, normalize=True, name="hf-hub:some/model")
