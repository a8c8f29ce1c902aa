"""The files as their own readers read them, where those are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from altogether_rt.mixing.draw import MixDraw
from altogether_rt.mixing.mixture import MixPlan, mix

TEXTS = [
    'say "hi", then',
    "plain",
    "NA",
    "null",
    "007",
    "tab\there",
    "café ’til 3",
    "'quoted'",
    "a,b",
]


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Pictures in a folder, and a caption for every second one."""
    (tmp_path / "photos").mkdir()
    path = tmp_path / "captions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(TEXTS):
            name = f"{number}.png"
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / name)
            row: dict[str, Any] = {"file_name": name, "alt": text}
            caption = {"caption": f"caption {number}"}
            error = {"error": {"class": "unreadable", "message": "no"}}
            file.write(json.dumps(row | (error if number % 2 else caption)) + "\n")
    return path


def test_open_clip_with_its_defaults(tmp_path: Path, captions: Path) -> None:
    """open_clip's own CsvDataset and its own command line: no option but the file's name."""
    pytest.importorskip("torch", reason="needs the extra train")
    for package in ("pandas", "webdataset", "braceexpand"):
        pytest.importorskip(package, reason="open_clip's loader needs it")
    from altogether_rt.model._torchvision import make_torchvision_importable

    make_torchvision_importable()
    data = pytest.importorskip("open_clip_train.data", reason="needs open_clip's training code")
    params = pytest.importorskip("open_clip_train.params", reason="needs open_clip's training code")
    out = tmp_path / "train.tsv"
    plan = MixPlan(MixDraw(0.0), "open-clip", images=str(tmp_path / "photos"))
    mix(captions, out, plan)
    options = params.parse_args(["--train-data", str(out)])
    dataset = data.CsvDataset(
        options.train_data,
        lambda image: image.convert("RGB").getpixel((0, 0))[0],
        img_key=options.csv_img_key,
        caption_key=options.csv_caption_key,
        sep=options.csv_separator,
        tokenizer=lambda texts: texts,
    )
    found = [dataset[index] for index in range(len(dataset))]
    assert [number for number, _ in found] == list(range(len(TEXTS)))
    assert [text.strip() for _, text in found] == [t.replace("\t", " ") for t in TEXTS]
    assert data.get_dataset_fn(options.train_data, options.dataset_type) is data.get_csv_dataset


@pytest.mark.parametrize("only_captions", [True, False])
def test_hugging_face_imagefolder(tmp_path: Path, captions: Path, only_captions: bool) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face's reader")
    plan = MixPlan(MixDraw(1.0), "imagefolder", only_captions=only_captions)
    mix(captions, tmp_path / "photos" / "metadata.jsonl", plan)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "photos"), cache_dir=str(tmp_path / "cache")
    )["train"]
    found = {row["image"].getpixel((0, 0))[0]: row["text"] for row in loaded}
    # An image that the metadata do not name has no text.
    said = {number: text for number, text in found.items() if text is not None}
    expected = {number: f"caption {number}" for number in range(0, len(TEXTS), 2)}
    if not only_captions:
        expected |= {n: TEXTS[n].replace("\t", " ") for n in range(1, len(TEXTS), 2)}
    assert said == expected


@pytest.mark.lean
def test_metaclip_loader_finds_strings(tmp_path: Path) -> None:
    """What its loader does: open {id % 100}/{id}.json and take `captions[uuid]` for the text."""
    shard_id = 207
    nested = tmp_path / "nested" / str(shard_id % 100) / f"{shard_id}.json"
    nested.parent.mkdir(parents=True)
    nested.write_text(json.dumps({"uuid-1": {"altogether": "a text"}}))
    plan = MixPlan(MixDraw(1.0), "metaclip")
    mix(tmp_path / "nested", tmp_path / "plain", plan)
    path = tmp_path / "plain" / f"{shard_id % 100}" / f"{shard_id}.json"
    captions = json.loads(path.read_text("utf-8"))
    text = captions["uuid-1"]
    assert isinstance(text, str)
    assert text + " and more" == "a text and more"
