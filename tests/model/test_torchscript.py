"""The weights of a TorchScript archive, without its program."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.importing.encoders import embedded_encoder
from altogether_rt.model._torchvision import make_torchvision_importable
from altogether_rt.model.torchscript import is_torchscript, read_torchscript

EMBED_DIM, SIDE = 24, 32
#: OpenAI's structure at a small size; its loader takes a head for each 64 of the width.
CLIP: dict[str, Any] = {
    "embed_dim": EMBED_DIM,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 7, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2},
}


class Published(nn.Module):
    """A CLIP as OpenAI saved it: half precision, traced, its sizes among the buffers."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        for name, part in clip.named_children():
            setattr(self, name, part)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            setattr(self, name, getattr(clip, name))
        for name, size in (("input_resolution", SIDE), ("context_length", 7), ("vocab_size", 50)):
            self.register_buffer(name, torch.tensor(size))

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.get_submodule("visual")(image)
        return features


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make_torchvision_importable()
    import open_clip

    torch.manual_seed(0)
    model = Published(open_clip.CLIP(**CLIP)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(parameter.half().float())  # what half precision can hold
    path = tmp_path_factory.mktemp("openai") / "ViT-small.pt"
    torch.jit.trace(model, torch.zeros(1, 3, SIDE, SIDE)).save(str(path))
    return path


def test_weights_are_those_of_the_loaded_program(archive: Path) -> None:
    assert is_torchscript(archive)
    wanted = torch.jit.load(str(archive)).state_dict()
    found = read_torchscript(archive)
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_embeddings_are_those_of_open_clips_loader(archive: Path) -> None:
    import open_clip

    theirs = open_clip.load_openai_model(str(archive), precision="fp32", device="cpu").visual
    config = EncoderConfig("small", EMBED_DIM, SIDE, model=CLIP)
    state = embedded_encoder(config, str(archive))
    assert {f"encoder.{name}" for name in theirs.state_dict()} == set(state)
    ours = open_clip.CLIP(**CLIP).visual.eval()
    ours.load_state_dict({name.removeprefix("encoder."): t for name, t in state.items()})
    image = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(image)
        assert (ours(image) - wanted).abs().max() < 1e-6 * wanted.abs().max()


def test_another_structure_is_a_sentence(archive: Path) -> None:
    other = {**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "layers": 3}}
    with pytest.raises(AltogetherError, match="are missing, the vision tower among them"):
        embedded_encoder(EncoderConfig("small", EMBED_DIM, SIDE, model=other), str(archive))


def rewritten(archive: Path, path: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of an archive with other members."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.infolist():
            data = change(member.filename, old.read(member))
            if data is not None:
                new.writestr(member.filename, data)
    return path


def test_the_program_is_not_read(archive: Path, tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> bytes | None:
        return b"raise SystemExit" if "/code/" in name else data

    path = rewritten(archive, tmp_path / "other.pt", change)
    assert set(read_torchscript(path)) == set(read_torchscript(archive))


class Hostile:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_description_calls_nothing(archive: Path, tmp_path: Path, protocol: int) -> None:
    payload = pickle.dumps(Hostile(tmp_path / "made"), protocol)

    def change(name: str, data: bytes) -> bytes | None:
        return payload if name.endswith("/data.pkl") else data

    path = rewritten(archive, tmp_path / "hostile.pt", change)
    with pytest.raises(AltogetherError, match=r"it needs (posix|nt)\.mkdir"):
        read_torchscript(path)
    assert not (tmp_path / "made").exists()


def pickled_tensor(size: tuple[int, ...], stride: tuple[int, ...], count: int) -> bytes:
    """A module with one tensor of the storage 0."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", count)
            return None

    class Storage:
        pass

    class Built:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, size, stride, False, {})

    file = io.BytesIO()
    Pickler(file, 2).dump(Built())
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "count", "match"),
    [
        ((1 << 40,), (0,), 1, "larger than its storage"),
        ((2, 2), (1 << 30, 1), 1, "larger than its storage"),
        ((2,), (-1,), 1, "no shape"),
        ((1,) * 9, (1,) * 9, 1, "no shape"),
        ((1,), (1,), 1 << 40, "cut off"),
        ((1,), (1,), 1, "contains no module"),
    ],
)
def test_tensors_stay_within_their_storage(
    archive: Path,
    tmp_path: Path,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    count: int,
    match: str,
) -> None:
    payload = pickled_tensor(size, stride, count)

    def change(name: str, data: bytes) -> bytes | None:
        return payload if name.endswith("/data.pkl") else data

    with pytest.raises(AltogetherError, match=match):
        read_torchscript(rewritten(archive, tmp_path / "small.pt", change))


def test_a_missing_or_compressed_member(archive: Path, tmp_path: Path) -> None:
    def without(name: str, data: bytes) -> bytes | None:
        return None if name.endswith("/data/0") else data

    with pytest.raises(AltogetherError, match="is damaged"):
        read_torchscript(rewritten(archive, tmp_path / "missing.pt", without))
    path = tmp_path / "compressed.pt"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    with pytest.raises(AltogetherError, match="compressed or too large"):
        read_torchscript(path)
    assert not is_torchscript(tmp_path)
    (tmp_path / "text.pt").write_text("no archive")
    assert not is_torchscript(tmp_path / "text.pt")


def test_as_a_captioners_weights_it_is_still_refused(archive: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", str(archive), "--out", str(tmp_path / "ckpt")])
    assert done.exit_code == 1
    assert "is a TorchScript archive" in done.stderr
