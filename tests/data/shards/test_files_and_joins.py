"""Folders of images as shards, and metadata that is joined from files of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.options import Join, ShardOptions, parse_alt_keys
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import AltogetherError, ImageError
from tests.shards_fixtures import png, webdataset_shard, write_tar

pytestmark = pytest.mark.lean


def read(text: Path, options: ShardOptions) -> dict[str, list[Sample]]:
    found = {}
    for shard in list_shards([str(text)], options):
        with open_shard(shard, options) as source:
            found[shard.name] = list(source.samples())
    return found


def kind(sample: Sample) -> str:
    return sample.image.kind if isinstance(sample.image, ImageError) else ""


def texts(samples: list[Sample]) -> list[tuple[str, ...]]:
    return [sample.alts.texts for sample in samples]


def test_img2dataset_files(tmp_path: Path) -> None:
    for shard in range(2):
        folder = tmp_path / f"{shard:05}"
        folder.mkdir()
        for name, content in webdataset_shard(2, first=2 * shard):
            (folder / str(name)).write_bytes(content)
        (tmp_path / f"{shard:05}_stats.json").write_text('{"successes": 2}')
    (tmp_path / "00000" / "lonely.txt").write_bytes(b"text")
    (tmp_path / "00001" / "empty.txt").write_bytes(b"")
    (tmp_path / "00001" / "empty.jpg").symlink_to("/nowhere")
    options = ShardOptions(layout="files")
    found = read(tmp_path, options)
    assert list(found) == ["00000", "00001"]
    assert [s.key for s in found["00000"]] == ["000000000", "000000001", "lonely"]
    assert found["00000"][1].image == tmp_path / "00000" / "000000001.png"
    assert texts(found["00000"]) == [("alt 0",), ("alt 1",), ("text",)]
    assert [kind(s) for s in found["00000"]] == ["", "", "missing"]
    assert texts(found["00001"])[-1] == ()
    assert [shard.num_expected for shard in list_shards([str(tmp_path)], options)] == [2, 2]


@pytest.mark.parametrize("metadata", ["metadata.jsonl", "metadata.csv"])
def test_hugging_face_folders(tmp_path: Path, metadata: str) -> None:
    for name in ("train/a.png", "train/deep/b.png", "test/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    rows = {"train": [("a.png", "one"), ("deep/b.png", "two"), ("x.png", "three")], "test": []}
    for folder, pairs in rows.items():
        pairs = pairs or [("../train/a.png", "out")]
        if metadata.endswith("l"):
            lines = [json.dumps({"file_name": name, "text": text}) for name, text in pairs]
        else:
            lines = ["file_name,text", *(f"{name},{text}" for name, text in pairs)]
        (tmp_path / folder / metadata).write_text("\n".join(lines))
    found = read(tmp_path, ShardOptions(layout="imagefolder"))
    assert list(found) == ["test", "train"]
    assert [s.key for s in found["train"]] == ["a.png", "deep/b.png", "x.png"]
    assert texts(found["train"]) == [("one",), ("two",), ("three",)]
    assert [kind(s) for s in found["train"]] == ["", "", "missing"]
    assert [s.key for s in found["test"]] == ["c.png", "../train/a.png"]
    assert [kind(s) for s in found["test"]] == ["", "missing"]


def test_metaclip_trees(tmp_path: Path) -> None:
    """Meta CLIP 2's tars hold images alone; their texts are in a tree of JSON files beside."""
    for shard in (1, 2001):
        folder = tmp_path / "tar" / str(shard - shard % 2000)
        folder.mkdir(parents=True)
        write_tar(folder / f"{shard}.tar", [(f"uuid{shard}.jpeg", png()), ("none.jpeg", png())])
        group = tmp_path / "json" / str(shard - shard % 2000)
        group.mkdir(parents=True)
        alts = {f"uuid{shard}": [[f"text {shard}", "en", [1, 2]], ["zwei", "de", []]]}
        (group / f"{shard}.json").write_text(json.dumps(alts))
    join = Join(str(tmp_path / "json" / "{shard}.json"))
    found = read(tmp_path / "tar", ShardOptions(join=join))
    assert list(found) == ["0/1", "2000/2001"]
    assert texts(found["0/1"]) == [("text 1", "zwei"), ()]
    assert texts(found["2000/2001"]) == [("text 2001", "zwei"), ()]


def metadata_file(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"meta{suffix}"
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("on", ["key", "url"])
def test_joins(tmp_path: Path, suffix: str, on: str) -> None:
    shard = write_tar(tmp_path / "00000.tar", webdataset_shard(3))
    rows = [
        {"key": f"{n:09}", "url": f"https://example.org/{n}", "alt": f"joined {n}"}
        for n in (0, 2, 7)
    ]
    join = Join(str(metadata_file(tmp_path, suffix, rows)), on)
    found = read(shard, ShardOptions(join=join))["00000"]
    assert texts(found) == [("joined 0",), ("alt 1",), ("joined 2",)]
    both = ShardOptions(join=join, alt_keys=parse_alt_keys("txt;alt"))
    assert texts(read(shard, both)["00000"])[0] == ("alt 0", "joined 0")
    assert found[0].fields == {}, "what was read to join is not kept"


def test_joins_of_parquet_shards(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"uid": ["a", "b"], "image": [png(1), png(2)], "text": ["x", "y"]})
    path = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    join = Join(str(metadata_file(tmp_path, ".jsonl", [{"uid": "b", "caption": "joined"}])), "uid")
    assert texts(read(path, ShardOptions(join=join))["a"]) == [("x",), ("joined",)]
    both = ShardOptions(join=join, alt_keys=parse_alt_keys("text;caption"))
    assert texts(read(path, both)["a"]) == [("x",), ("y", "joined")], "as in tars"
    with pytest.raises(AltogetherError, match="no column caption"):
        read(path, ShardOptions(alt_keys=parse_alt_keys("text;caption")))


def test_joins_that_cannot_be(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "00000.tar", webdataset_shard(1))
    path = metadata_file(tmp_path, ".jsonl", [{"url": "x"}])
    with pytest.raises(AltogetherError, match="no record with key"):
        read(shard, ShardOptions(join=Join(str(path))))
    with pytest.raises(AltogetherError, match="cannot be read"):
        read(shard, ShardOptions(join=Join(str(tmp_path / "none.jsonl"))))
    with pytest.raises(AltogetherError, match="must not be empty"):
        Join("", "key")
