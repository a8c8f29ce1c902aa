"""Training files: the annotations that MetaCLIP released, rounds, hostile names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.config import EncoderConfig
from altogether_rt.data.file_hash import file_hash
from altogether_rt.errors import AltogetherError
from altogether_rt.train.annotations import read_example, read_name
from altogether_rt.train.data import FolderDataset
from altogether_rt.train.prepared import PreparedImages, prepare_images
from altogether_rt.train.recipe import DataRecipe, TrainRecipe
from altogether_rt.train.run import train

RECORDS: list[dict[str, Any]] = [
    {
        "img_path": "wit/0.jpg",
        "alt": "common iguana, 06/01/2004",
        "round2": "An iguana.",
        "round3": "An iguana on a branch.",
        "source": "wit",
        "url": "https://example.org/0.jpg",
    },
    {"img_path": "datacomp/1.jpg", "alt": "", "round2": "A cup.", "round3": " ", "url": "x"},
]


def write(folder: Path, records: list[dict[str, Any]]) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps({"data": records}), "utf-8")
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, colour in (("wit/0.jpg", "green"), ("datacomp/1.jpg", "white")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (40, 40), colour).save(path)
    return tmp_path / "images"


def test_the_last_round_of_each_record_is_learnt(tmp_path: Path, images: Path) -> None:
    dataset = FolderDataset(write(tmp_path, RECORDS), images=images)
    first, second = (dataset.example(index, 0) for index in range(2))
    assert (first.alts, first.caption) == (
        ("common iguana, 06/01/2004",),
        "An iguana on a branch.",
    )
    assert second.caption == "A cup."  # nobody wrote its third round
    assert dataset.image(0)().size == (40, 40)


def test_another_round_may_be_asked_for(tmp_path: Path, images: Path) -> None:
    path = write(tmp_path, RECORDS)
    dataset = FolderDataset(path, images=images, round_number=2)
    assert [dataset.example(i, 0).caption for i in range(2)] == ["An iguana.", "A cup."]
    with pytest.raises(AltogetherError, match=r"1 line of .* record 2: no round 3"):
        FolderDataset(path, images=images, round_number=3)


def test_rounds_of_a_list_are_counted_from_the_alt_text() -> None:
    record = {"alt": "a", "rounds": ["a", "b", "c"]}
    assert read_example(record).caption == "c"
    assert read_example(record, 2).caption == "b"
    with pytest.raises(ValueError, match="no round 4"):
        read_example(record, 4)
    assert read_example({"caption": "d"}).caption == "d"
    with pytest.raises(ValueError, match="no round 1"):
        read_example({"caption": "d"}, 1)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.jpg", "a/../../b.jpg", "C:\\x.jpg", "file:///etc/passwd", "a\0.jpg"],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, images: Path, name: str) -> None:
    path = write(tmp_path, [{**RECORDS[0], "img_path": name}, RECORDS[1]])
    with pytest.raises(AltogetherError, match="leads out of the folder of images"):
        FolderDataset(path, images=images)
    assert len(FolderDataset(path, images=images, skip_bad=True)) == 1
    assert read_name({"file_name": "../beside.jpg"}, inside=False) == "../beside.jpg"


def test_missing_images_are_counted_and_named(
    tmp_path: Path, images: Path, finetune: TrainRecipe, undisturbed: Path
) -> None:
    gone = {**RECORDS[0], "img_path": "wit/gone.jpg"}
    data = DataRecipe("folder", path=str(write(tmp_path, [*RECORDS, gone])), images=str(images))
    with pytest.raises(AltogetherError, match=r"1 of 3 images cannot be trained on: wit/gone\.jpg"):
        train(finetune, tmp_path / "out", init=undisturbed, data=data, say=lambda _: None)
    said: list[str] = []
    train(
        finetune,
        tmp_path / "out",
        init=undisturbed,
        data=data,
        skip_bad=True,
        threads=1,
        say=said.append,
    )
    assert any("1 of 3 images cannot be read and are left out" in line for line in said)
    about = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert about["data"]["images_left_out"] == 1 and about["data"]["examples"] == 2


def test_an_image_that_has_taken_the_name_of_another_is_not_trained_on(
    tmp_path: Path, images: Path
) -> None:
    """Rows of captions and of annotation exports know their image; those of others may not."""
    records = [
        {**RECORDS[0], "image_hash": file_hash(images / "wit/0.jpg")},
        {**RECORDS[1], "image_hash": "0" * 64},  # of another kind
    ]
    encoder = EncoderConfig("tiny", embed_dim=8, image_size=16)

    def prepare(*, skip_bad: bool = False) -> PreparedImages:
        dataset = FolderDataset(write(tmp_path, records), images=images)
        cache = tmp_path / "cache"
        return prepare_images(dataset, encoder, cache, lambda _: None, skip_bad=skip_bad)

    assert prepare().indices == [0, 1]
    Image.new("RGB", (40, 40), "red").save(images / "wit/0.jpg")
    said = r"1 of 2 images .*: wit/0\.jpg is not the image that its texts are of: .*--skip-bad"
    with pytest.raises(AltogetherError, match=said):
        prepare()
    assert prepare(skip_bad=True).indices == [1]
    records[0]["image_hash"] = file_hash(images / "wit/0.jpg")
    assert prepare().indices == [0, 1]
    records[0]["image_hash"] = "0" * 16  # the image is prepared, and the row is of another
    with pytest.raises(AltogetherError, match=said):
        prepare()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match=r"no folder of images .*nowhere"):
        FolderDataset(write(tmp_path, RECORDS), images=tmp_path / "nowhere")


def test_texts_of_a_file_named_data_are_still_alt_texts(tmp_path: Path) -> None:
    """`{"data": […]}` is a list of annotations only if it holds objects."""
    path = tmp_path / "alts.json"
    path.write_text('{"data": ["one", "two"]}')
    with pytest.raises(AltogetherError, match=r"entry 'data': no text in rounds"):
        FolderDataset(path)
