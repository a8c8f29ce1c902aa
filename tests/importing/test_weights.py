"""Files of weights come from strangers: nothing in them runs, and damage is a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from altogether_rt.errors import AltogetherError
from altogether_rt.importing.weights import (
    check_finite,
    find_state,
    hash_weights,
    read_folder,
    read_weights,
)


class Hostile:
    """Unpickling runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "weights.pt"
    torch.save(
        {"clip_project.linear.weight": torch.zeros(2), "x": Hostile(mark)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(AltogetherError, match="more than tensors"):
        read_weights(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the file is indeed hostile
    assert mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_hostile_pickle_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(AltogetherError, match="not loaded"):
        read_weights(tmp_path / "w.pt")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    weights = {"a": torch.randn(400)}
    save_file(weights, path) if name.endswith("rs") else torch.save(weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(AltogetherError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_flipped_bytes_never_escape_as_another_error(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.randn(8), "b": {"c": torch.ones(2)}}, path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except AltogetherError:
            continue


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(AltogetherError, match="larger than the file"):
        read_weights(path)


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(AltogetherError, match="contains a list"):
        read_weights(tmp_path / "list.pt")
    with pytest.raises(AltogetherError, match="does not exist"):
        read_weights(tmp_path / "absent.pt")


def test_weights_are_found_inside_a_training_checkpoint(tmp_path: Path) -> None:
    weights = {"module.part.a": torch.ones(2), "module.other.b": torch.ones(3), "step": 4}
    torch.save({"epoch": 1, "model": {"state_dict": weights}}, tmp_path / "w.pt")
    found = find_state(read_weights(tmp_path / "w.pt"), "part.")
    assert set(found) == {"part.a", "other.b"}
    assert find_state(weights, "absent.") == {}


def test_a_folder_of_one_file_or_of_several(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="has no weights"):
        read_folder(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    assert set(read_folder(tmp_path)) == {"a"}
    save_file({"b": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(1)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"b": "one.safetensors", "c": "two.safetensors"}}')
    assert set(read_folder(tmp_path)) == {"b", "c"}
    for bad in (
        '{"weight_map": {"b": "../one.safetensors"}}',
        '{"weight_map": {"b": "../one.safetensors", "c": "two.safetensors"}}',
        '{"weight_map": 3}',
        "nonsense",
    ):
        index.write_text(bad)
        with pytest.raises(AltogetherError, match="not an index"):
            read_folder(tmp_path)


def test_the_hash_of_a_folder_is_of_its_files_in_order(tmp_path: Path) -> None:
    names = [f"part-{number}.safetensors" for number in range(12)]
    for number, name in enumerate(names):
        save_file({f"w{number}": torch.full((1,), float(number))}, tmp_path / name)
    hashes = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in sorted(names)]
    assert hash_weights(tmp_path / names[3]) == hashes[sorted(names).index(names[3])]
    index = {"weight_map": {f"w{n}": name for n, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert hash_weights(tmp_path) == hashlib.sha256("".join(hashes).encode()).hexdigest()


def _torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))


def _cut(path: Path) -> None:
    torch.save({"a": torch.randn(4000)}, path)
    path.write_bytes(path.read_bytes()[:9000])


def _numpy_scalar(path: Path) -> None:
    torch.save({"best": np.float64(0.5)}, path)


MISTAKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "TorchScript": (_torchscript, "is a TorchScript archive, .* torch.save its state_dict"),
    "Git LFS": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a Git LFS pointer .*: run git lfs pull",
    ),
    "a web page": (lambda p: p.write_text("\n<!DOCTYPE html><html>"), "is a web page .*download"),
    "a text": (lambda p: p.write_text("Entry not found"), r"is a text \('Entry not found'\)"),
    "empty": (lambda p: p.write_bytes(b""), "is empty: download"),
    "cut off": (_cut, "is cut off or damaged"),
    "compressed": (_compressed, "is a compressed archive"),
    "a NumPy scalar": (_numpy_scalar, "more than tensors, numpy.*: save only its weights"),
    "a model": (
        lambda p: torch.save(torch.nn.Linear(2, 2), p),
        "more than tensors, torch.nn.modules.linear.Linear, .*: save only the state dict",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", MISTAKEN)
def test_what_is_taken_for_weights_is_named(case: str, tmp_path: Path) -> None:
    make, says = MISTAKEN[case]
    make(tmp_path / "w.pt")
    with pytest.raises(AltogetherError, match=says) as caught:
        read_weights(tmp_path / "w.pt")
    assert str(caught.value).endswith(".")


def test_cut_safetensors_say_how_much_is_missing(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-7])
    expected = f"it has {len(whole) - 7} bytes instead of {len(whole)}"
    with pytest.raises(AltogetherError, match=expected):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    weights = {"good": torch.zeros(3), "bad.weight": torch.tensor([0.0, value])}
    with pytest.raises(AltogetherError, match=r"bad.weight has 1 NaN or infinite values"):
        check_finite(weights, "w.pt")
    check_finite({"good": weights["good"], "ids": torch.tensor([1])}, "w.pt")
