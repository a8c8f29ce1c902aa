"""Parquet files with images: every row is a sample or a named error."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.images import ImageLimits
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.options import ShardOptions, parse_alt_keys, parse_image_keys
from altogether_rt.data.shards.parquet import ParquetSource
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import AltogetherError, ImageError
from tests.shards_fixtures import png

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def read(path: Path, options: ShardOptions | None = None) -> tuple[list[Sample], ParquetSource]:
    source = ParquetSource(Shard("a", str(path)), path, options)
    samples = list(source.samples())
    assert len({sample.key for sample in samples}) == len(samples), "keys are unique"
    return samples, source


def kinds(samples: list[Sample]) -> list[str]:
    return [s.image.kind if isinstance(s.image, ImageError) else "" for s in samples]


def test_images_texts_and_keys(tmp_path: Path) -> None:
    columns = {"jpg": [png(n) for n in range(5)], "txt": list("abcde"), "key": [9, 8, 7, 6, 5]}
    samples, source = read(write(tmp_path / "a.parquet", columns, row_group_size=2))
    assert [s.key for s in samples] == ["9", "8", "7", "6", "5"]
    assert [s.image for s in samples] == [png(n) for n in range(5)]
    assert [s.alts.texts for s in samples] == [("a",), ("b",), ("c",), ("d",), ("e",)]
    assert source.ending.kind == "whole" and source.shard.num_expected == 5
    assert [s.key for s in source.samples_where(lambda index, key: index > 2)] == ["6", "5"]


def test_types_that_other_writers_give_columns(tmp_path: Path) -> None:
    """Dictionaries of images, decimals and bytes for keys, texts that are not said to be texts."""
    images = [png(n) for n in range(4)]
    columns = {
        "image": pyarrow.array([*images, None]).dictionary_encode(),
        "key": pyarrow.array([Decimal(n) for n in range(5)], pyarrow.decimal128(38, 0)),
        "caption": pyarrow.array([*("a ü".encode(), b"b", None, b""), b"\xff"], pyarrow.binary()),
    }
    path = write(tmp_path / "a.parquet", columns)
    samples, source = read(path)
    assert [s.key for s in samples] == list("01234")
    assert [s.image for s in samples[:4]] == images and kinds(samples)[4] == "missing"
    assert [s.alts.texts for s in samples] == [("a ü",), ("b",), (), (), ()]
    assert "4 'utf-8' codec can't decode" in str(source.unused()["alt_texts_unusable"])
    assert read(path, ShardOptions(image_keys=("image",)))[0][0].image == images[0]
    columns = {
        "image": pyarrow.array([{"bytes": png(1)}] * 2),
        "key": pyarrow.array([b"k1", b"\xff"]).dictionary_encode(),
        "txt": pyarrow.array([b"a", b"b"]).dictionary_encode(),
    }
    samples, _ = read(write(tmp_path / "a.parquet", columns))
    assert [(s.key, s.alts.texts) for s in samples] == [("k1", ("a",)), ("ff", ("b",))]


@pytest.mark.parametrize("name", ["number", "list", "struct"])
def test_a_column_that_cannot_hold_images_is_refused(tmp_path: Path, name: str) -> None:
    columns = {"image": [png(1)], "number": [1], "list": [["a"]], "struct": [{"a": 1}]}
    path = write(tmp_path / "a.parquet", columns)
    message = f"neither images nor paths of images in its column {name}, but"
    with pytest.raises(AltogetherError, match=message):
        read(path, ShardOptions(image_keys=(name,)))


class Enough(Exception):
    """No more samples are wanted."""


def test_rows_are_asked_for_one_by_one(tmp_path: Path) -> None:
    """Who is asked may say that it is enough, and gets all samples before; or count along."""
    columns = {"jpg": [png(n) for n in range(9)], "key": list("abcdefghi")}
    path = write(tmp_path / "a.parquet", columns, row_group_size=5)
    source = ParquetSource(Shard("a", str(path)), path)
    told: list[str] = []

    def wanted(index: int, key: str) -> bool:
        told.append(f"{key}?")
        if index == 7:
            raise Enough
        return index != 1

    with pytest.raises(Enough):
        told.extend(sample.key for sample in source.samples_where(wanted))
    assert " ".join(told) == "a? a b? c? c d? d e? e f? f g? g h?"
    assert source.ending.kind == "whole"


def test_what_is_null_or_empty(tmp_path: Path) -> None:
    """Nulls arrive as values everywhere else: a caption of a missing text reads `None`."""
    images = [
        {"bytes": png(1), "path": "x.png"},
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        None,
        {"bytes": None, "path": "https://example.org/a.png"},
        {"bytes": None, "path": "/etc/hostname"},
        {"bytes": None, "path": "../../etc/hostname"},
        {"bytes": None, "path": "a\0b"},
    ]
    texts = [None, "", " ", "NaN", None, None, None, None]
    samples, _ = read(write(tmp_path / "a.parquet", {"image": images, "text": texts}))
    outside = ["not_a_file"] * 4
    assert kinds(samples) == ["", "missing", "empty", "missing", *outside]
    assert [s.alts.texts for s in samples] == [(), (), (), ("NaN",), (), (), (), ()]
    assert [s.key for s in samples][:2] == ["000000000", "000000001"]
    assert "not downloaded" in str(samples[4].image)


def test_paths_lead_into_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png())
    (tmp_path / "images" / "link.png").symlink_to("/etc/hostname")
    columns = {"file_name": ["images/a.png", "images/link.png", "images/b.png"]}
    samples, _ = read(write(tmp_path / "a.parquet", columns))
    assert samples[0].image == tmp_path / "images" / "a.png"
    assert kinds(samples) == ["", "not_a_file", ""], "whether there is a file, the row will say"
    assert [s.key for s in samples] == columns["file_name"]


def test_nested_alts(tmp_path: Path) -> None:
    columns = {
        "image": [png(1), png(2), png(3)],
        "captions": [["a", None, "b"], [], None],
        "meta": [{"alt": [{"text": "c"}, {"text": "d"}], "n": 1}, {"alt": [], "n": 2}, None],
        "json": [json.dumps({"caption": "e"}), "{", None],
        "texts": [[["alt", "f"], ["title", "g"]], [["alt", "h"]], None],
    }
    path = write(tmp_path / "a.parquet", columns)
    samples, source = read(path)
    assert [s.alts.texts for s in samples] == [("f", "g"), ("h",), ()]
    options = ShardOptions(alt_keys=parse_alt_keys("captions;meta:alt.text;json:caption;texts"))
    samples, source = read(path, options)
    assert [s.alts.texts for s in samples] == [("a", "b", "c", "d", "e", "f", "g"), ("h",), ()]
    assert source.unused()["alt_texts_unusable"].count == 1


def test_lists_of_images(tmp_path: Path) -> None:
    columns = {"images": [[{"bytes": png(1)}, {"bytes": png(2)}], [], None, [None]]}
    samples, source = read(write(tmp_path / "a.parquet", columns))
    assert samples[0].image == png(1) and kinds(samples) == ["", "missing", "missing", "missing"]
    assert source.unused()["images_not_chosen"].count == 1


def test_duplicate_keys_and_large_images(tmp_path: Path) -> None:
    columns = {
        "key": ["a", "a", "b", "", None],
        "image": [png(1), png(2), bytes(999), png(3), png(4)],
    }
    options = ShardOptions(limits=ImageLimits(max_bytes=500))
    samples, _ = read(write(tmp_path / "a.parquet", columns, row_group_size=1), options)
    assert [s.key for s in samples] == ["a", "a#2", "b", "000000003", "000000004"]
    assert kinds(samples) == ["", "duplicate", "too_large", "", ""]


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"picture": [png()], "words": ["a"], "number": [1]})
    samples, _ = read(path, ShardOptions(alt_keys=parse_alt_keys("words")))
    assert samples[0].image == png() and samples[0].alts.texts == ("a",)
    for options, words in (
        (ShardOptions(alt_keys=parse_alt_keys("txt")), "no column txt"),
        (ShardOptions(image_keys=parse_image_keys("jpg")), "no column jpg"),
    ):
        with pytest.raises(AltogetherError, match=words):
            read(path, options)
    with pytest.raises(AltogetherError, match="no column of images"):
        read(write(tmp_path / "b.parquet", {"number": [1]}))


def test_damage(tmp_path: Path) -> None:
    columns = {"image": [png(n) for n in range(30)], "text": ["t"] * 30}
    path = write(
        tmp_path / "a.parquet",
        *[columns],
        row_group_size=10,
        use_dictionary=False,
        write_page_checksum=True,
        compression="none",
    )
    raw = bytearray(path.read_bytes())
    at = raw.index(png(14))
    raw[at + 20] ^= 255
    path.write_bytes(raw)
    samples, source = read(path)
    assert kinds(samples) == [""] * 10 + ["damaged"] * 10 + [""] * 10
    assert source.ending.kind == "damaged" and source.ending.offset is not None
    path.write_bytes(raw[:-100])
    samples, source = read(path)
    assert samples == [] and source.ending.kind == "truncated"
    assert source.ending.offset == len(raw) - 100


def test_files_that_datasets_writes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "text": list("abc")}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train-00000.parquet")
    (shard,) = list_shards([str(tmp_path)])
    with open_shard(shard) as source:
        samples = list(source.samples())
    assert [s.image for s in samples] == [png(0), png(1), png(2)]
    assert [s.alts.texts for s in samples] == [("a",), ("b",), ("c",)]
