"""Images are prepared once, whatever else is wrong, and all that are bad are named together."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from altogether_rt.config import EncoderConfig
from altogether_rt.errors import AltogetherError
from altogether_rt.preprocess.pixels import Preprocessor
from altogether_rt.train import prepared
from altogether_rt.train.data import Dataset, FolderDataset, OpenImage, ScenesDataset
from altogether_rt.train.prepared import PreparedImages, prepare_images

ENCODER = EncoderConfig("tiny", embed_dim=8, image_size=16)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[OpenImage]:
    """The images that were opened, in order."""
    found: list[OpenImage] = []
    read = prepared._read

    def record(preprocessor: Preprocessor, image: OpenImage) -> object:
        found.append(image)
        return read(preprocessor, image)

    monkeypatch.setattr(prepared, "_read", record)
    return found


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[str]], FolderDataset]:
    """Writes a training file of the images, of which those named `bad…` are none."""

    def write_rows(names: list[str]) -> FolderDataset:
        for index, name in enumerate(names):
            path = tmp_path / name
            if name.startswith("bad"):
                path.write_text("404")
            elif not path.exists():
                Image.new("RGB", (20, 20), (index, 0, 0)).save(path)
        rows = [json.dumps({"file_name": name, "caption": "A boat."}) + "\n" for name in names]
        (tmp_path / "train.jsonl").write_text("".join(rows))
        return FolderDataset(tmp_path / "train.jsonl")

    return write_rows


def prepare(dataset: Dataset, cache: Path, **options: bool) -> PreparedImages:
    return prepare_images(dataset, ENCODER, cache, lambda sentence: None, **options)


def test_pixels_are_those_of_captioning(tmp_path: Path) -> None:
    dataset = ScenesDataset(3, seed=1)
    images = prepare(dataset, tmp_path)
    pixels = images.take([1, 0])
    assert pixels.shape == (2, 16, 16, 3)
    assert np.array_equal(pixels[0], Preprocessor(ENCODER).pixels(dataset.image(1)()))
    assert np.array_equal(images.take(slice(0, 2)), pixels[::-1])


def test_bad_images_are_named_together_and_the_others_kept(
    tmp_path: Path, write: Callable[[list[str]], FolderDataset], opened: list[OpenImage]
) -> None:
    names = ["a.png", "bad1.png", "b.png", "bad2.png", "gone/c.png"]
    (tmp_path / "gone").mkdir()
    dataset = write(names)
    (tmp_path / "gone" / "c.png").unlink()
    with pytest.raises(AltogetherError, match=r"3 of 5 images cannot be trained on") as caught:
        prepare(dataset, tmp_path / "cache")
    assert all(name in str(caught.value) for name in ("bad1.png", "bad2.png", "gone/c.png"))
    assert "--skip-bad" in str(caught.value)
    opened.clear()
    images = prepare(dataset, tmp_path / "cache", skip_bad=True)
    assert len(opened) == 3, "those that are prepared are not opened again"
    assert (images.indices, sorted(images.bad)) == ([0, 2], [1, 3, 4])
    opened.clear()
    mended = write(["a.png", "b.png", "d.png", "a.png"])
    images = prepare(mended, tmp_path / "cache")
    assert len(opened) == 1
    assert images.take([0, 1, 2, 3])[:, 0, 0, 0].tolist() == [0, 2, 2, 0]
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".jsonl", ".raw"]
    assert (tmp_path / "cache" / "pixels-16-shortest_center_crop-bicubic.raw").stat().st_size == (
        3 * 16 * 16 * 3
    ), "one place for each image, also where rows share it"


def test_many_bad_images_are_listed_in_a_file(
    tmp_path: Path, write: Callable[[list[str]], FolderDataset]
) -> None:
    dataset = write([f"bad{i}.png" for i in range(30)] + ["a.png"])
    with pytest.raises(AltogetherError, match="30 of 31 images") as caught:
        prepare(dataset, tmp_path / "cache")
    listed = tmp_path / "cache" / "bad-images.txt"
    assert str(listed) in str(caught.value)
    assert len(listed.read_text().splitlines()) == 30
    with pytest.raises(AltogetherError, match="none of the 2 images can be trained on"):
        prepare(write(["bad0.png", "bad1.png"]), tmp_path / "cache", skip_bad=True)


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", os.fsdecode(b"\xff.png")])
def test_a_name_that_utf8_does_not_have_is_one_of_the_bad_ones(
    tmp_path: Path, write: Callable[[list[str]], FolderDataset], name: str
) -> None:
    write(["a.png"])
    with (tmp_path / "train.jsonl").open("a") as file:
        for number in range(30):
            file.write(json.dumps({"file_name": f"{number}{name}", "caption": "A boat."}) + "\n")
    dataset = FolderDataset(tmp_path / "train.jsonl")
    images = prepare(dataset, tmp_path / "cache", skip_bad=True)
    assert images.indices == [0]
    assert len((tmp_path / "cache" / "bad-images.txt").read_text("utf-8").splitlines()) == 30


def test_a_wrong_folder_of_images_is_pointed_out(
    tmp_path: Path, write: Callable[[list[str]], FolderDataset]
) -> None:
    dataset = write([f"{i}.png" for i in range(30)])
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    said = r"^none of the 30 images is there: 0\.png is the first; .* or to --images DIR\.$"
    with pytest.raises(AltogetherError, match=said):
        prepare(dataset, tmp_path / "cache", skip_bad=True)


def test_a_replaced_image_is_prepared_again(
    tmp_path: Path, write: Callable[[list[str]], FolderDataset]
) -> None:
    dataset = write(["a.png", "b.png"])
    before = prepare(dataset, tmp_path / "cache")
    path = tmp_path / "b.png"
    times = path.stat()
    data = bytearray(path.read_bytes())
    Image.new("RGB", (20, 20), (9, 0, 0)).save(path)
    assert len(path.read_bytes()) == len(data), "a replacement of the same size"
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = prepare(dataset, tmp_path / "cache")
    assert after.take([1])[0, 0, 0, 0] == 9
    assert after.take([0])[0, 0, 0, 0] == 0
    assert before.sha256() != after.sha256()


@pytest.mark.parametrize("left", ["cut pixels", "cut line", "pixels without a line", "garbage"])
def test_what_a_killed_run_left_is_used_as_far_as_it_is_whole(
    tmp_path: Path, opened: list[OpenImage], left: str
) -> None:
    dataset = ScenesDataset(5, seed=1)
    wanted = prepare(dataset, tmp_path).sha256()
    index, pixels = sorted(tmp_path.iterdir())
    lines = index.read_bytes().splitlines(keepends=True)
    if left == "cut pixels":
        os.truncate(pixels, 3 * 16 * 16 * 3 + 7)
    elif left == "cut line":
        index.write_bytes(b"".join(lines[:3]) + lines[3][:5])
    elif left == "pixels without a line":
        index.write_bytes(b"".join(lines[:3]))
    else:
        index.write_bytes(b"".join(lines[:3]) + b"[1, 2]\n" + lines[3])
    opened.clear()
    images = prepare(dataset, tmp_path)
    assert len(opened) == 2
    assert images.sha256() == wanted
    assert np.array_equal(images.take([4])[0], Preprocessor(ENCODER).pixels(dataset.image(4)()))


def test_what_was_prepared_before_an_interruption_is_kept(
    tmp_path: Path, opened: list[OpenImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ScenesDataset(5, seed=1)

    def interrupt(self: ScenesDataset, index: int) -> OpenImage:
        if index == 3:
            raise KeyboardInterrupt
        return draw(self, index)

    draw = ScenesDataset.image
    with monkeypatch.context() as patch:
        patch.setattr(ScenesDataset, "image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(dataset, tmp_path)
    opened.clear()
    prepare(dataset, tmp_path)
    assert len(opened) == 2


def test_a_pool_prepares_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ScenesDataset(5, seed=1)
    wanted = prepare(dataset, tmp_path / "one").sha256()
    monkeypatch.setattr(prepared, "_MIN_FOR_POOL", 2)
    assert prepare(dataset, tmp_path / "pool").sha256() == wanted
