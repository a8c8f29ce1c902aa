"""Which shards paths, folders, patterns and URLs name, and what they are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from altogether_rt.data.shards.braces import expand_braces
from altogether_rt.data.shards.expected import expected_samples
from altogether_rt.data.shards.listing import is_sharded, list_shards
from altogether_rt.data.shards.options import ShardOptions
from altogether_rt.errors import AltogetherError, MissingDependencyError
from tests.shards_fixtures import png, write_webdataset

pytestmark = pytest.mark.lean


def names(*inputs: object, options: ShardOptions | None = None) -> list[str]:
    return [shard.name for shard in list_shards([str(text) for text in inputs], options)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{00008..00011}.tar", ["00008.tar", "00009.tar", "00010.tar", "00011.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("a{b,c}{0..1}", ["ab0", "ab1", "ac0", "ac1"]),
        ("{a,b{0..1}}", ["a", "b0", "b1"]),
        ("{a,}x", ["ax", "x"]),
        ("{a}", ["{a}"]),
        ("{}{", ["{}{"]),
        ("}x{0..1}", ["}x0", "}x1"]),
    ],
)
def test_braces(text: str, expected: list[str]) -> None:
    assert list(expand_braces(text)) == expected


@pytest.mark.parametrize("text", ["{0..99999999}", "{0..9999}{0..9999}"])
def test_braces_for_too_many_names(text: str) -> None:
    with pytest.raises(AltogetherError, match="10,000,000 names"):
        list(expand_braces(text))


def test_a_folder_of_img2dataset(tmp_path: Path) -> None:
    """Its Parquet files are metadata of the tars, and say with its statistics what to expect."""
    folder = write_webdataset(tmp_path / "data", 3, 2)
    (folder / "00000.parquet").write_bytes(b"PAR1")
    (folder / "notes.txt").write_text("")
    shards = list_shards([str(folder)])
    assert [shard.name for shard in shards] == ["00000", "00001", "00002"]
    assert [shard.num_expected for shard in shards] == [2, 2, 2]
    assert shards[0].num_bytes == (folder / "00000.tar").stat().st_size
    etag = shards[0].etag
    (folder / "00000.tar").write_bytes(b"other")
    assert list_shards([str(folder)])[0].etag != etag


def test_names_are_unique_safe_and_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/10.tar", "b/9.tar", "a/9.tar.gz", "a/9.tar", "a/x y;$\n.tar", "a/..tar"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    found = names(tmp_path)
    assert found == ["a/9.tar", "a/9.tar.gz", "a/x y___", "b/9", "b/10"]
    assert names(tmp_path / "b/9.tar") == ["9"]
    assert names(tmp_path / "b" / "{9..10}.tar", tmp_path / "a/9.tar") == ["a/9", "b/9", "b/10"]
    assert names(tmp_path / "b/*.tar", tmp_path / "b") == ["9", "10"], "each once"


def test_captions_below_their_shards_are_no_shards(tmp_path: Path) -> None:
    """Their run would caption them when it is started again."""
    run = tmp_path / "in" / "captions"
    shards = ["00000.parquet", "more/00001.parquet", "captions/late.parquet"]
    captions = ["captions/00000.parquet", "captions/more/00001.parquet"]
    work = ["_run.json", "00000_stats.json", "_work/more/00001/0000000000-0000000512.arrow"]
    for path in [*(tmp_path / "in" / name for name in shards + captions), *(run / n for n in work)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [Path(shard.url).relative_to(tmp_path / "in") for shard in list_shards([str(tmp_path)])]
    assert sorted(map(str, found)) == sorted(shards)
    (run / "_run.json").unlink()  # then they are img2dataset's
    assert len(list_shards([str(tmp_path)])) == 5
    assert len(list_shards([str(tmp_path / "in" / name) for name in captions])) == 2


def test_inputs_without_shards(tmp_path: Path) -> None:
    for text in (str(tmp_path), str(tmp_path / "*.tar")):
        with pytest.raises(AltogetherError, match="no shards"):
            list_shards([text])
    (tmp_path / "00000.tar").write_bytes(b"")
    with pytest.raises(AltogetherError, match=r"there is no .*00001\.tar"):
        list_shards([str(tmp_path / "{00000..00002}.tar")])


def test_literal_braces_in_names(tmp_path: Path) -> None:
    (tmp_path / "{a,b}.tar").write_bytes(b"")
    assert names(tmp_path / "{a,b}.tar") == ["_a,b_"]


def test_what_counts_as_sharded(tmp_path: Path) -> None:
    shards = write_webdataset(tmp_path / "shards", 1, 1)
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(png())
    (images / "alts.parquet").write_bytes(b"")
    (images / "backup.tar").write_bytes(b"")
    empty = tmp_path / "metadata"
    empty.mkdir()
    (empty / "metadata.parquet").write_bytes(b"")
    assert is_sharded([str(shards)]) and is_sharded([str(shards / "00000.tar")])
    assert is_sharded([str(shards / "{00000..00009}.tar")]) and is_sharded(["s3://bucket"])
    assert is_sharded([str(shards / "*.tar")]) and is_sharded(["a", "b"])
    assert not is_sharded([str(images)]) and not is_sharded([str(images / "a.png")])
    assert not is_sharded([str(empty)]) and not is_sharded([str(tmp_path / "nothing")])
    assert is_sharded([str(images)], "files")


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        (["photos", "edge"], "photos is a folder of images, and only shards can be several:"),
        (["shards", "photos"], "photos is a folder of images, and only shards can be several:"),
        (["photos/a.jpg", "photos/b.jpg"], "photos/a.jpg is an image, and only shards can be"),
        (["gone.JPG", "x.tar"], "gone.JPG is an image, and only shards can be several: give the"),
        (["photos/*.jpg"], "photos/.*.jpg is an image, and only shards can be several: give the"),
        (["https://example.org/a.png?w=1"], "is an image elsewhere: fetch it, and give the file"),
    ],
)
def test_images_where_there_can_only_be_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_webdataset(tmp_path / "shards", 1, 1)
    for folder in ("photos", "edge", "shards"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "a.jpg").write_bytes(b"x")  # beside shards it is no input
    with pytest.raises(AltogetherError, match=sentence):
        is_sharded(inputs)
    assert is_sharded(["shards", "elsewhere.tar"])
    assert is_sharded(inputs, "files")


def test_expected_samples(tmp_path: Path) -> None:
    tar = tmp_path / "00000.tar"
    stats = tmp_path / "00000_stats.json"
    assert expected_samples(str(tar)) is None
    for text in ("{", '{"successes": "3"}', "[" * 100_000, '{"successes": -1}'):
        stats.write_text(text)
        assert expected_samples(str(tar)) is None
    stats.write_text(json.dumps({"successes": 7}))
    assert expected_samples(str(tar)) == 7


def test_expected_samples_by_the_metadata(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"status": ["success", "failed_to_download", "success"]})
    parquet.write_table(table, tmp_path / "00000.parquet")
    assert expected_samples(str(tmp_path / "00000.tar")) == 2
    assert expected_samples(str(tmp_path / "00000.parquet")) is None, "a shard itself"


def test_packages_that_urls_need(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    imported = builtins.__import__

    def without_fsspec(name: str, *rest: object) -> object:
        if name.startswith("fsspec"):
            raise ImportError(name)
        return imported(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_fsspec)
    with pytest.raises(MissingDependencyError, match=r"altogether-rt\[shards\]"):
        list_shards(["s3://bucket/a.tar"])
