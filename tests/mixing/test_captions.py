"""Reading captions from what wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import CaptionRecord, iter_captions
from tests.publishing.examples import write_run

pytestmark = pytest.mark.lean


def read(path: Path) -> tuple[list[CaptionRecord], Problems]:
    problems = Problems()
    return list(iter_captions(path, problems)), problems


def test_rows_of_captions_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = (
        '{"file_name": "a.png", "alt": ["x", "y"], "caption": "an a"}',
        '{"file_name": "b.png", "alt": "z", "error": {"class": "unreadable", "message": "no"}}',
        '{"file_name": "c.png", "caption": "a c"}',
        "",
        "{broken",
        '{"file_name": "d.png", "caption": 7}',
        '{"caption": "of nothing"}',
        '{"file_name": "n.png", "alt": "n", "caption": null}',
        '{"file_name": "m.png", "alt": "m"}',
        '{"file_name": "o.png", "alt": [7], "caption": "an o"}',
        '{"file_name": "p.png", "caption": NaN}',
        '{"file_name": "q.png", "caption": NaN, "error": NaN}',  # as pandas writes it
        '{"file_name": "r.png", "caption": "an r", "error": "of an earlier try"}',
        '{"file_name": 7, "caption": "a seven"}',
        '{"file_name": "", "caption": "of nothing"}',
        '{"file_name": "e.png", "alt": null, "caption": "an e"}',  # no line end
    )
    path.write_text("\n".join(lines))
    records, problems = read(path)
    assert records == [
        CaptionRecord("a.png", "an a", ("x", "y")),
        CaptionRecord("b.png", None, ("z",), failed=True),
        CaptionRecord("c.png", "a c"),
        CaptionRecord("n.png", None, ("n",)),
        CaptionRecord("p.png", None),
        CaptionRecord("q.png", None),
        CaptionRecord("r.png", "an r"),
        CaptionRecord("e.png", "an e"),
    ]
    assert problems.examples == [
        "line 5: not JSON",
        "line 6: no caption",
        "line 7: no file_name",
        "line 9: no caption",
        "line 10: alt is neither a text nor a list of texts",
    ]
    assert problems.count == 7


def test_a_table_has_the_columns_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_text('file_name\talt\tcaption\na.png\tx\t"an a, ""quoted"""\n')
    assert read(path)[0] == [CaptionRecord("a.png", 'an a, "quoted"', ("x",))]


def test_plain_and_nested_objects_read_the_same(tmp_path: Path) -> None:
    plain, nested = tmp_path / "plain.json", tmp_path / "nested.json"
    plain.write_text(json.dumps({"u1": "one", "u2": "two", "u3": None, "u4": 4}))
    nested.write_text(
        json.dumps(
            {
                "u1": {"altogether": "one"},
                "u2": {"altogether": "two", "other": "x"},
                "u3": {"other": "x"},
                "u4": {"altogether": ["no"]},
            }
        )
    )
    expected = [
        CaptionRecord("u1", "one"),
        CaptionRecord("u2", "two"),
        CaptionRecord("u3", None),
        CaptionRecord("u4", None),
    ]
    for path in (plain, nested):
        records, problems = read(path)
        assert records == expected
        assert problems.count == 1


def test_a_folder_of_shards_is_read_in_order(tmp_path: Path) -> None:
    for name, uuid in (("7/107.json", "z"), ("3/3.json", "a"), ("7/7.json", "m")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({uuid: {"altogether": f"a {uuid}"}}))
    records, _ = read(tmp_path)
    assert [record.key for record in records] == ["a", "z", "m"]


def test_complete_shards_of_a_run_are_read_in_order(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra shards")
    row = {"key": "a.jpg", "alt": "an alt", "caption": "a caption"}
    write_run(tmp_path, {"train/00010": [row], "train/00009": [row], "00002": [row], "b/1": [row]})
    (tmp_path / "b" / "1_stats.json").unlink()  # not complete yet
    hidden = tmp_path / "train" / "_parts"
    hidden.mkdir()
    for name in ("00010.parquet", "00010_stats.json"):
        (hidden / name).write_bytes((tmp_path / "train" / name).read_bytes())
    records, problems = read(tmp_path)
    shards = ["00002", "train/00009", "train/00010"]
    assert records == [CaptionRecord(f"{s}/a.jpg", "a caption", ("an alt",)) for s in shards]
    assert not problems
    for path in tmp_path.rglob("*_stats.json"):  # not written by a run: all of them count
        path.unlink()
    found = [record.key for record in read(tmp_path)[0]]
    assert found == [f"{s}/a.jpg" for s in ("00002", "b/1", "train/00009", "train/00010")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no file"),
        ("none.json", None, "cannot be read"),
        ("list.json", "[]", "object of captions"),
        ("broken.json", "{", "not a JSON file"),
        ("latin.json", b'{"a": "caf\xe9"}', "not a JSON file"),
        ("deep.json", "[" * 100_000, "not a JSON file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(AltogetherError, match=message):
        read(path)


def test_an_object_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.JSON"
    path.write_text('{"a": "b"}')
    for limit, fits in ((10, True), (9, False)):
        monkeypatch.setattr("altogether_rt.mixing.captions._MAX_OBJECT_BYTES", limit)
        if fits:
            assert read(path)[0] == [CaptionRecord("a", "b")]
        else:
            with pytest.raises(AltogetherError, match="too large for one JSON object"):
                read(path)


def test_a_folder_without_captions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match=r"no \.json files"):
        read(tmp_path)
