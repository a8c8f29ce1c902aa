"""A checkpoint is whole or absent, comes back as it was, and says what is wrong with it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from altogether_rt import __version__
from altogether_rt.artifacts.bundle import hash_file
from altogether_rt.artifacts.checkpoint import Checkpoint, save_checkpoint
from altogether_rt.config import CaptionerConfig, EncoderConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.model.captioner import CaptionerModel
from altogether_rt.model.encoder import build_encoder
from tests.tiny import EMBED_DIM, FAMILIES, MapperKind, tiny_config, tiny_tokenizer

VISION = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
}
ENCODER = EncoderConfig("tiny-vit", EMBED_DIM, image_size=16, model=VISION)


def config_of(family: str = "opt", mapper: MapperKind = "transformer") -> CaptionerConfig:
    return replace(tiny_config(family, mapper), encoder=ENCODER)


def state_of(config: CaptionerConfig, embed_encoder: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(7)
    state = dict(CaptionerModel(config).state_dict())
    if embed_encoder:
        visual = build_encoder(config.encoder).visual.state_dict()
        state |= {f"encoder.{name}": tensor for name, tensor in visual.items()}
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}


def save(folder: Path, config: CaptionerConfig, state: dict[str, Tensor], **about: Any) -> None:
    folder.parent.mkdir(exist_ok=True)
    tokenizer = tiny_tokenizer(folder.parent / "words.json")
    save_checkpoint(folder, config, state, tokenizer, about)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("mapper", ["transformer", "mlp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip(family: str, mapper: MapperKind, tmp_path: Path) -> None:
    config = config_of(family, mapper)
    state = state_of(config)
    save(tmp_path / "ckpt", config, state, training={"steps": 3})
    loaded = Checkpoint.load(tmp_path / "ckpt")
    assert loaded.config == config
    assert loaded.about["training"] == {"steps": 3}
    assert loaded.about["versions"] == {"altogether_rt": __version__, "torch": torch.__version__}
    assert loaded.has_encoder
    assert loaded.tokenizer_path.read_bytes() == (tmp_path / "words.json").read_bytes()
    captioner = loaded.captioner()
    assert not captioner.training
    found = captioner.state_dict()
    wanted = {k.replace("encoder.", "encoder.visual.", 1): v for k, v in state.items()}
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    pixels = torch.from_numpy(np.zeros((2, 16, 16, 3), np.uint8))
    assert captioner.encode(pixels).shape == (2, EMBED_DIM)


def test_the_encoder_can_be_left_out(tmp_path: Path) -> None:
    config = config_of()
    save(tmp_path / "ckpt", config, state_of(config))
    assert Checkpoint.load(tmp_path / "ckpt").captioner(with_encoder=False).encoder is None


def test_the_encoder_by_reference(tmp_path: Path) -> None:
    from altogether_rt.model.encoder import build_clip

    config = config_of()
    clip: Any = build_clip(config.encoder)
    weights = tmp_path / "clip.pt"
    torch.save(clip.state_dict(), weights)
    about = {"encoder_weights": str(weights), "encoder_sha256": hash_file(weights)}
    save(tmp_path / "ckpt", config, state_of(config, embed_encoder=False), **about)
    with pytest.raises(AltogetherError, match="outside of its folder: pass --allow-download"):
        Checkpoint.load(tmp_path / "ckpt").encoder()
    loaded = Checkpoint.load(tmp_path / "ckpt", allow_download=True)
    assert not loaded.has_encoder
    found = loaded.encoder().visual.state_dict()
    assert all(torch.equal(found[k], v) for k, v in clip.visual.state_dict().items())
    torch.save(build_clip(config.encoder).state_dict(), weights)  # other random weights
    with pytest.raises(AltogetherError, match="its hash differs"):
        loaded.encoder()


def test_the_hash_is_of_the_weights_file(tmp_path: Path) -> None:
    config = config_of()
    state = state_of(config)
    save(tmp_path / "one", config, state)
    save(tmp_path / "two", config, state)
    one, two = (Checkpoint.load(tmp_path / name) for name in ("one", "two"))
    assert one.sha256() == two.sha256() == hash_file(one.weights_path)
    state["decoder.norm.bias"] += 1
    save(tmp_path / "two", config, state)
    assert Checkpoint.load(tmp_path / "two").sha256() != one.sha256()


def test_views_and_parameters_are_saved_as_plain_tensors(tmp_path: Path) -> None:
    config = config_of()
    state = state_of(config)
    name = "decoder.layers.0.q.weight"
    wide = torch.randn(64, 128).T.requires_grad_()
    state[name] = wide[:64]  # not contiguous, part of a larger tensor, wants a gradient
    save(tmp_path / "ckpt", config, state)
    found = Checkpoint.load(tmp_path / "ckpt").captioner(with_encoder=False).state_dict()
    assert torch.equal(found[name], wide[:64])


def test_an_old_checkpoint_is_replaced_and_left_alone_by_a_failure(tmp_path: Path) -> None:
    config = config_of()
    folder = tmp_path / "runs" / "ckpt"
    save(folder, config, state_of(config))
    before = contents(folder)
    changed = state_of(config)
    changed["mapper.prefix"] += 1
    with pytest.raises(FileNotFoundError):
        save_checkpoint(folder, config, changed, tmp_path / "no tokenizer", {})
    assert contents(folder) == before
    save(folder, config, changed)
    assert contents(folder)["model.safetensors"] != before["model.safetensors"]
    assert {path.name for path in folder.parent.iterdir()} == {"ckpt", "words.json"}


def test_nothing_is_there_after_a_failure(tmp_path: Path) -> None:
    config = config_of()
    with pytest.raises(TypeError):  # plain data only
        save(tmp_path / "deep" / "ckpt", config, state_of(config), odd={1, 2})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["words.json"]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    return tiny_tokenizer(tmp_path / "words.json")


def test_what_is_no_checkpoint_is_not_overwritten(tmp_path: Path, words: Path) -> None:
    config = config_of()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(AltogetherError, match="not a checkpoint: give another folder"):
        save_checkpoint(tmp_path / "photos", config, state_of(config), words, {})
    assert contents(tmp_path / "photos") == {"cat.jpg": b"meow"}
    (tmp_path / "file").write_text("mine")
    with pytest.raises(AltogetherError, match="is a file"):
        save_checkpoint(tmp_path / "file", config, state_of(config), words, {})
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", config, state_of(config), words, {})
    assert Checkpoint.load(tmp_path / "empty").config == config


def _config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        data = json.loads((folder / "config.json").read_text())
        change(data)
        (folder / "config.json").write_text(json.dumps(data))

    return break_it


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), r"\(no config.json\)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"\(no model.safetensors\)"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"\(no tokenizer.json\)"),
    "half a config": (lambda f: (f / "config.json").write_text('{"name'), "config.json"),
    "list as config": (lambda f: (f / "config.json").write_text("[1]"), "config.json"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json"),
    "unknown key": (_config(lambda d: d.update(colour=1)), "unknown key colour"),
    "bad value": (_config(lambda d: d["decoder"].update(heads=5)), "multiple of decoder.heads"),
    "list as provenance": (lambda f: (f / "checkpoint.json").write_text("[]"), "checkpoint.json"),
    "half the provenance": (lambda f: (f / "checkpoint.json").write_text("{"), "checkpoint.json"),
    "another size": (
        _config(lambda d: d["decoder"].update(ffn_width=100)),
        "do not fit its config",
    ),
    "more layers": (_config(lambda d: d["mapper"].update(layers=3)), "do not fit its config"),
    "another encoder": (
        _config(lambda d: d["encoder"]["model"]["vision_cfg"].update(layers=2)),
        "do not fit its config",
    ),
    "no safetensors": (lambda f: (f / "model.safetensors").write_text("no"), "is a text"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes()[:-1000]
        ),
        "is not a whole safetensors file .it has",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_are_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    config = config_of()
    folder = tmp_path / "ckpt"
    save(folder, config, state_of(config))
    Checkpoint.load(folder).captioner()  # whole until it is broken
    break_it, message = BROKEN[case]
    break_it(folder)
    with pytest.raises(AltogetherError, match=message) as caught:
        Checkpoint.load(folder).captioner()
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="is not a checkpoint: there is no such folder"):
        Checkpoint.load(tmp_path / "none")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was connected to, which fails."""
    tried: list[object] = []

    def refuse(self: socket.socket, address: object) -> None:
        tried.append(address)
        raise OSError("no network in this test")

    def no_name(host: object, *_: object, **__: object) -> None:
        tried.append(host)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    return tried


HUNGRY: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "a tag": ({}, {"encoder_weights": "openai"}, False),
    "a published model as weights": ({}, {"encoder_weights": "hf-hub:a/b"}, False),
    "a folder anywhere": ({}, {"encoder_weights": "local-dir:/etc"}, False),
    "a published model": ({"name": "hf-hub:a/b", "model": None}, {}, False),
    "a published model, embedded": ({"name": "hf-hub:a/b", "model": None}, {}, True),
    "a tower of timm on the hub": (
        {"model": {"embed_dim": 24, "vision_cfg": {"timm_model_name": "hf-hub:a/b"}}},
        {},
        True,
    ),
    "a tower of timm in a folder": (
        {"model": {"embed_dim": 24, "vision_cfg": {"timm_model_name": "local-dir:/etc"}}},
        {},
        True,
    ),
}


@pytest.mark.parametrize("case", HUNGRY)
def test_nothing_is_fetched_unasked(case: str, tmp_path: Path, no_network: list[object]) -> None:
    encoder, about, embed = HUNGRY[case]
    config = config_of()
    save(tmp_path / "c", config, state_of(config, embed_encoder=embed), **about)
    _config(lambda d: d["encoder"].update(encoder))(tmp_path / "c")
    with pytest.raises(AltogetherError, match="pass --allow-download if you trust"):
        Checkpoint.load(tmp_path / "c").encoder()
    assert no_network == []
    with pytest.raises(AltogetherError):
        Checkpoint.load(tmp_path / "c", allow_download=True).encoder()
    if "hf-hub" in str(HUNGRY[case]) and not embed:
        assert no_network != []  # the fixture sees a fetch


def test_text_towers_of_the_hub_are_not_fetched(tmp_path: Path, no_network: list[object]) -> None:
    config = config_of()
    about = {"encoder_weights": "clip.pt"}
    save(tmp_path / "c", config, state_of(config, embed_encoder=False), **about)
    torch.save({}, tmp_path / "c" / "clip.pt")
    text = {"hf_model_name": "xlm-roberta-base", "hf_model_pretrained": True}
    _config(lambda d: d["encoder"]["model"].update(text_cfg=text))(tmp_path / "c")
    with pytest.raises(AltogetherError, match="needs 'xlm-roberta-base', which would be downl"):
        Checkpoint.load(tmp_path / "c").encoder()
    assert no_network == []


@pytest.mark.parametrize("name", ["../clip.pt", "/etc/passwd", "link.pt"])
def test_no_file_outside_is_opened_unasked(name: str, tmp_path: Path) -> None:
    config = config_of()
    save(tmp_path / "c", config, state_of(config, embed_encoder=False), encoder_weights=name)
    (tmp_path / "clip.pt").write_bytes(b"not weights")
    (tmp_path / "c" / "link.pt").symlink_to(tmp_path / "clip.pt")
    with pytest.raises(AltogetherError, match="--allow-download") as caught:
        Checkpoint.load(tmp_path / "c").encoder()
    assert "not weights" not in str(caught.value)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    config = config_of()
    save(tmp_path / "c", config, state_of(config))
    weights = tmp_path / "c" / "model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AltogetherError, match="is a link to a file outside of the checkpoint"):
        Checkpoint.load(tmp_path / "c")
    Checkpoint.load(tmp_path / "c", allow_download=True).captioner()
