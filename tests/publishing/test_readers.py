"""Exports as training code reads them: open_clip's loader, webdataset, datasets, MetaCLIP's way."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.mixing.draw import MixDraw
from altogether_rt.publishing.inputs import find_shards
from altogether_rt.publishing.layouts import Layout, MetaClipLayout
from altogether_rt.publishing.publish import ExportSummary, export_shards
from altogether_rt.publishing.run import open_run
from altogether_rt.publishing.tables import ParquetLayout
from altogether_rt.publishing.tar_layout import TarLayout
from altogether_rt.publishing.tars import IntoJson, IntoText, Placement
from tests.publishing.examples import image_bytes, write_run, write_tar

pytest.importorskip("pyarrow", reason="needs the extra parquet")

#: Keys as img2dataset and as MetaCLIP write them, and in folders.
KEY_STYLES: dict[str, Callable[[int], str]] = {
    "numbers": lambda number: f"{number:09d}",
    "uuids": lambda number: f"{number:032x}",
    "folders": lambda number: f"batch/{number % 2}/{number:04d}",
}
NUM_SAMPLES = 12


@pytest.fixture(params=KEY_STYLES)
def keys(request: pytest.FixtureRequest) -> list[str]:
    """The keys of the samples, in order; the image of sample N is N of 255 red."""
    return [KEY_STYLES[request.param](number) for number in range(NUM_SAMPLES)]


@pytest.fixture
def shards(tmp_path: Path, keys: list[str]) -> Path:
    """Two tars with image, text and metadata of each sample."""
    for shard in range(2):
        members = []
        for number in range(shard, NUM_SAMPLES, 2):
            members += [
                (f"{keys[number]}.png", image_bytes(number)),
                (f"{keys[number]}.txt", f"alt {number}".encode()),
                (f"{keys[number]}.json", json.dumps({"caption": f"alt {number}"}).encode()),
            ]
        write_tar(tmp_path / "in" / f"{shard:05d}.tar", members)
    return tmp_path / "in"


@pytest.fixture
def run(tmp_path: Path, keys: list[str]) -> Path:
    """Captions of all samples but number 5, which has an error."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for shard in range(2):
        rows[f"{shard:05d}"] = [
            {"key": keys[n], "alt": f"alt {n}", "caption": f"caption {n}"}
            if n != 5
            else {"key": keys[n], "alt": "alt 5", "error_class": "broken", "error": "It is broken."}
            for n in range(shard, NUM_SAMPLES, 2)
        ]
    return write_run(tmp_path / "run", rows)


def export(run: Path, out: Path, layout: Layout) -> ExportSummary:
    with Spool(out.parent) as spool:
        return export_shards(open_run(str(run)), open_store(out), layout, spool)


def into_tars(shards: Path, placement: Placement) -> TarLayout:
    return TarLayout(find_shards(str(shards), Spool()), placement)


def open_clip_pairs(tars: Path, *, is_train: bool) -> dict[int, str]:
    """What open_clip's own loader makes of the tars: text by the image's number."""
    pytest.importorskip("torch", reason="needs the extra train")
    for package in ("pandas", "webdataset", "braceexpand"):
        pytest.importorskip(package, reason="open_clip's loader needs it")
    from altogether_rt.model._torchvision import make_torchvision_importable

    make_torchvision_importable()
    data = pytest.importorskip("open_clip_train.data", reason="needs open_clip's training code")
    source = str(tars / "{00000..00001}.tar")
    args = argparse.Namespace(
        train_data=source,
        val_data=source,
        train_num_samples=NUM_SAMPLES,
        val_num_samples=NUM_SAMPLES,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=4,
        seed=0,
        workers=0,
        world_size=1,
    )
    loaded = data.get_wds_dataset(
        args,
        lambda image: image.getpixel((0, 0))[0],
        is_train,
        tokenizer=lambda text: [text],
    )
    found: dict[int, str] = {}
    for images, texts in loaded.dataloader:
        found |= dict(zip([int(image) for image in images], texts, strict=True))
    return found


@pytest.mark.parametrize("is_train", [True, False])
def test_open_clip_trains_with_the_mixed_texts(
    tmp_path: Path, run: Path, shards: Path, keys: list[str], is_train: bool
) -> None:
    draw = MixDraw(0.5, seed=1)
    layout = into_tars(shards, IntoText(draw))
    summary = export(run, tmp_path / "out", layout)
    expected = {
        number: f"caption {number}"
        if draw.wants_caption(keys[number]) and number != 5
        else f"alt {number}"
        for number in range(NUM_SAMPLES)
    }
    assert open_clip_pairs(tmp_path / "out", is_train=is_train) == expected
    assert summary.counts.captions == sum("caption" in text for text in expected.values())
    assert 0 < summary.counts.captions < NUM_SAMPLES


def test_open_clip_reads_the_old_texts_beside_captions(
    tmp_path: Path, run: Path, shards: Path
) -> None:
    export(run, tmp_path / "out", into_tars(shards, IntoJson()))
    found = open_clip_pairs(tmp_path / "out", is_train=False)
    assert found == {number: f"alt {number}" for number in range(NUM_SAMPLES)}


def test_webdataset_finds_the_captions(
    tmp_path: Path, run: Path, shards: Path, keys: list[str]
) -> None:
    """With decoding off: what its decoder does is not the tar's matter."""
    webdataset = pytest.importorskip("webdataset", reason="the reader of the layout")
    export(run, tmp_path / "out", into_tars(shards, IntoJson()))
    source = str(tmp_path / "out" / "{00000..00001}.tar")
    samples = {each["__key__"]: each for each in webdataset.WebDataset(source, shardshuffle=False)}
    assert list(samples) == [keys[n] for n in (*range(0, 12, 2), *range(1, 12, 2))]
    for number, key in enumerate(keys):
        described = json.loads(samples[key]["json"])
        assert described.get("altogether") == (None if number == 5 else f"caption {number}")
        assert described["caption"] == samples[key]["txt"].decode() == f"alt {number}"
        assert samples[key]["png"] == image_bytes(number)


def test_datasets_loads_the_tables(tmp_path: Path, run: Path, keys: list[str]) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face's reader")
    summary = export(run, tmp_path / "out", ParquetLayout())
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = list(loaded["train"])
    captioned = [n for n in (*range(0, 12, 2), *range(1, 12, 2)) if n != 5]
    assert rows == [
        {
            "key": keys[n],
            "shard": f"{n % 2:05d}",
            "alts": [f"alt {n}"],
            "caption": f"caption {n}",
        }
        for n in captioned
    ]
    assert (summary.counts.captions, summary.counts.failed) == (11, 1)


def test_datasets_loads_images_beside_captions(
    tmp_path: Path, run: Path, shards: Path, keys: list[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face's reader")
    export(run, tmp_path / "out", ParquetLayout(find_shards(str(shards), Spool())))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = list(loaded["train"])
    found = {row["image"].getpixel((0, 0))[0]: (row["key"], row["caption"]) for row in rows}
    assert found == {n: (keys[n], f"caption {n}") for n in range(NUM_SAMPLES) if n != 5}


def test_images_are_those_that_the_run_was_told_to_read(tmp_path: Path) -> None:
    """`--image-key thumb.png` makes other samples of a tar than its usual images do."""
    datasets = pytest.importorskip("datasets", reason="Hugging Face's reader")
    members = [("a.png", image_bytes(1)), ("a.thumb.png", image_bytes(2)), ("b.png", b"x")]
    write_tar(tmp_path / "in" / "00000.tar", members)
    rows = [{"key": "a", "alt": "", "caption": "a caption"}]
    reading = {"reading": {"image_keys": "thumb.png"}}
    folder = write_run(tmp_path / "run", {"00000": rows}, reading)
    keys = open_run(str(folder)).image_keys
    assert keys == ("thumb.png",)
    layout = ParquetLayout(find_shards(str(tmp_path / "in"), Spool(), image_keys=keys))
    assert export(folder, tmp_path / "out", layout).failed.count == 0
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert [row["image"].getpixel((0, 0))[0] for row in loaded["train"]] == [2]


def test_images_of_other_shards_are_refused(tmp_path: Path, run: Path, shards: Path) -> None:
    first, second = (shards / f"{number:05d}.tar" for number in range(2))
    first.write_bytes(second.read_bytes())
    summary = export(run, tmp_path / "out", ParquetLayout(find_shards(str(shards), Spool())))
    assert (summary.shards, summary.failed.count) == (1, 1)
    assert "00000.tar is not the shard that was captioned" in str(summary.failed)


@pytest.mark.parametrize("form", ["plain", "nested"])
def test_metaclip_finds_its_captions(tmp_path: Path, run: Path, keys: list[str], form: Any) -> None:
    """Its training opens {id % 100}/{id}.json and takes `captions[uuid]` for the text."""
    renamed = tmp_path / "ids"
    renamed.mkdir()
    for number, path in enumerate(sorted(run.glob("*.parquet"))):
        path.rename(renamed / f"{207 + number}.parquet")
    export(renamed, tmp_path / "out", MetaClipLayout(form))
    for number, shard_id in enumerate((207, 208)):
        path = tmp_path / "out" / str(shard_id % 100) / f"{shard_id}.json"
        captions = json.loads(path.read_text("utf-8"))
        expected = {keys[n]: f"caption {n}" for n in range(number, NUM_SAMPLES, 2) if n != 5}
        if form == "plain":
            assert captions == expected
        else:
            assert captions == {key: {"altogether": text} for key, text in expected.items()}
