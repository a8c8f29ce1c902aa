"""The encoder against open_clip's own model, from the same files to the same embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError, ConfigError
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.encoder import Encoder, build_clip, build_encoder, with_architecture
from altogether_rt.preprocess.pixels import Preprocessor

make_torchvision_importable()

import open_clip  # noqa: E402  (needs the line above where torch is a CPU build)

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1}
MODELS: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 12,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": TEXT,
    },
    "vit-quickgelu": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 8,
            "patch_size": 16,
        },
        "text_cfg": TEXT,
    },
    "resnet": {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 8, "head_width": 32},
        "text_cfg": TEXT,
    },
}


def config_of(kind: str, **changes: Any) -> EncoderConfig:
    model = MODELS[kind]
    values = {
        "name": f"tiny-{kind}",
        "embed_dim": model["embed_dim"],
        "image_size": model["vision_cfg"]["image_size"],
        "model": model,
    }
    return EncoderConfig(**{**values, **changes})


def randomise(clip: torch.nn.Module) -> None:
    """Random weights and batch statistics, so that no part is the identity."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                one = tensor.ndim == 1 and name.endswith("weight")
                tensor.copy_(tensor + 0.05 * torch.randn_like(tensor) + 0.1 * float(one))
    clip.eval()


def by_open_clip(clip: Any, config: EncoderConfig, images: list[Image.Image]) -> Tensor:
    transform = open_clip.image_transform(
        config.image_size, is_train=False, mean=config.mean, std=config.std
    )
    with torch.no_grad():
        batch = torch.stack([transform(image) for image in images])
        embeddings: Tensor = clip.encode_image(batch, normalize=config.normalize)
    return embeddings


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = [(91, 40), (33, 33), (50, 77)]
    arrays = [rng.integers(0, 256, (height, width, 3), np.uint8) for width, height in sizes]
    return [Image.fromarray(array).resize((64, 70 + i)) for i, array in enumerate(arrays[:count])]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_embeddings_are_open_clips(kind: str, normalize: bool) -> None:
    config = config_of(kind, normalize=normalize)
    clip: Any = build_clip(config)
    randomise(clip)
    images = pictures(3)
    pixels = np.stack([Preprocessor(config).pixels(image) for image in images])
    with torch.no_grad():
        found = Encoder(config, clip.visual)(torch.from_numpy(pixels))
    wanted = by_open_clip(clip, config, images)
    assert found.shape == (3, 12)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert (
        wanted[0] - wanted[1]
    ).abs().max() > 1e-3  # the images differ, so the match says something
    lengths = found.norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(3), atol=1e-5) is normalize


def test_other_channel_statistics() -> None:
    config = config_of("vit", mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7))
    clip: Any = build_clip(config)
    randomise(clip)
    pixels = np.stack([Preprocessor(config).pixels(image) for image in pictures(2)])
    with torch.no_grad():
        found = Encoder(config, clip.visual)(torch.from_numpy(pixels))
    torch.testing.assert_close(found, by_open_clip(clip, config, pictures(2)), atol=1e-5, rtol=1e-4)


def test_local_weights_of_a_custom_configuration(tmp_path: Path) -> None:
    config = config_of("vit")
    clip: Any = build_clip(config)
    randomise(clip)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    encoder = build_encoder(config, str(tmp_path / "clip.pt"))
    state = encoder.visual.state_dict()
    assert all(torch.equal(state[k], v) for k, v in clip.visual.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training
    assert set(encoder.state_dict()) == {f"visual.{k}" for k in state}  # statistics are no weights


def test_models_that_open_clip_knows_by_name(tmp_path: Path) -> None:
    name = "tiny-for-test-encoder"
    (tmp_path / f"{name}.json").write_text(json.dumps(MODELS["vit"]))
    open_clip.add_model_config(tmp_path)
    config = config_of("vit", name=name, model=None)
    clip: Any = build_clip(config)
    randomise(clip)
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    encoder = build_encoder(config, str(tmp_path / "clip.pt"))
    state = encoder.visual.state_dict()
    assert all(torch.equal(state[k], v) for k, v in clip.visual.state_dict().items())


def test_an_unknown_model_is_one_sentence() -> None:
    with pytest.raises(AltogetherError, match=r"open_clip.*'no-such-model'"):
        build_encoder(config_of("vit", name="no-such-model", model=None))


def test_a_bad_custom_configuration_is_one_sentence() -> None:
    with pytest.raises(AltogetherError, match="cannot make the encoder 'tiny-vit'"):
        build_encoder(config_of("vit", model={**MODELS["vit"], "vision_cfg": {"no_such_key": 1}}))


def test_weights_that_are_absent_or_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="cannot make the encoder"):
        build_encoder(config_of("vit"), str(tmp_path / "none.pt"), allow_download=True)
    torch.save(build_clip(config_of("vit-quickgelu")).state_dict(), tmp_path / "other.pt")
    with pytest.raises(AltogetherError, match="not those of the whole open_clip model"):
        build_encoder(config_of("vit"), str(tmp_path / "other.pt"), allow_download=True)
    (tmp_path / "text.pt").write_text("this is no checkpoint")
    with pytest.raises(AltogetherError, match="instead of weights"):
        build_encoder(config_of("vit"), str(tmp_path / "text.pt"), allow_download=True)


def test_another_embedding_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="makes embeddings of length 12, not 16"):
        build_encoder(config_of("vit", embed_dim=16))


def test_architecture_of_a_model_known_by_name_is_written_out() -> None:
    described = with_architecture(EncoderConfig("ViT-B-32", embed_dim=512))
    assert described.model is not None
    assert described.model["vision_cfg"]["patch_size"] == 32
    custom = EncoderConfig("mine", embed_dim=8, model={"embed_dim": 8})
    assert with_architecture(custom) is custom
    unknown = EncoderConfig("hf-hub:nobody/nothing", embed_dim=8)
    assert with_architecture(unknown).model is None
