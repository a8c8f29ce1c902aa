"""Alt-texts in files beside the images."""

from __future__ import annotations

from pathlib import Path

import pytest

from altogether_rt.data.alt_files.columns import Columns
from altogether_rt.data.sources.folder import FolderSource
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "sub/b.JPG", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a.txt").write_bytes("my Zoë\n".encode("utf-8-sig"))
    (tmp_path / "sub" / "b.txt").write_bytes("P\xf4rto".encode("cp1252"))
    (tmp_path / "a.json").write_text('{"key": "a", "caption": "my boat", "title": "other"}')
    (tmp_path / "sub" / "c.json").write_text('{"url": "x"}')
    (tmp_path / "sub" / "metadata.jsonl").write_text(
        '{"file_name": "b.JPG", "text": "one"}\n{"file_name": "z.png", "text": "gone"}\n?\n'
    )
    return tmp_path


def texts(source: FolderSource) -> dict[str, tuple[str, ...]]:
    return {sample.key: sample.alts.texts for sample in source.samples()}


def test_text_files(folder: Path) -> None:
    found = texts(FolderSource(folder, beside=".txt"))
    assert found == {"a.png": ("my Zoë",), "sub/b.JPG": ("Pôrto",), "sub/c.png": ()}


def test_json_files(folder: Path) -> None:
    source = FolderSource(folder, beside=".json")
    assert texts(source)["a.png"] == ("my boat",)
    assert source.unused()["alt_lines_unusable"].examples == ["c.json: has no alt-text"]
    found = texts(FolderSource(folder, beside=".json", columns=Columns(text="title")))
    assert found["a.png"] == ("other",)
    with pytest.raises(AltogetherError, match="--strict is given"):
        FolderSource(folder, beside=".json", strict=True)


def test_metadata_of_each_folder(folder: Path) -> None:
    source = FolderSource(folder, beside="metadata.jsonl")
    assert texts(source) == {"a.png": (), "sub/b.JPG": ("one",), "sub/c.png": ()}
    assert texts(FolderSource(folder, Path("metadata.jsonl"))) == texts(source)
    assert source.unused()["alts_without_image"].examples == ["sub/z.png"]
    assert source.unused()["alt_lines_unusable"].examples == ["line 3: not JSON"]


def test_what_lies_there_is_mentioned(folder: Path) -> None:
    notes = " ".join(FolderSource(folder).notes())
    assert "2 .txt files lie beside the images: give --alt-beside .txt" in notes
    assert "2 .json files" in notes and "1 metadata.jsonl file lies" in notes
    assert ".txt" not in " ".join(FolderSource(folder, sidecar=".txt").notes())
    assert "beside" not in " ".join(FolderSource(folder, beside=".txt").notes())


def test_nothing_beside(folder: Path) -> None:
    with pytest.raises(AltogetherError, match=r"has an alt-text in \.caption beside it"):
        FolderSource(folder, beside=".caption")
