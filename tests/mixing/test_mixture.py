"""From captions and alt-texts to files."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.draw import MixDraw
from altogether_rt.mixing.formats import Format, epoch_path, image_folder
from altogether_rt.mixing.mixture import MixPlan, MixSummary, mix
from altogether_rt.mixing.table import SampleTable
from tests.publishing.examples import write_run

pytestmark = pytest.mark.lean


def write_captions(path: Path, num: int = 200, missing_every: int = 10) -> Path:
    """Rows as `caption` writes them; every tenth could not be captioned."""
    with path.open("w") as file:
        for number in range(num):
            row: dict[str, Any] = {"file_name": f"{number:04d}.png", "alt": f"alt {number}"}
            if number % missing_every == missing_every - 1:
                row["error"] = {"class": "unreadable", "message": "no"}
            else:
                row["caption"] = f"caption {number}"
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    return write_captions(tmp_path / "captions.jsonl")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(captions: Path, out: Path, ratio: float = 0.5, **plan: Any) -> MixSummary:
    more = {key: plan.pop(key) for key in ("alts", "overwrite") if key in plan}
    return mix(captions, out, MixPlan(MixDraw(ratio, plan.pop("seed", 0)), **plan), **more)


def test_rows_say_what_was_taken_and_are_counted(tmp_path: Path, captions: Path) -> None:
    out = tmp_path / "m.jsonl"
    summary = run(captions, out, ratio=1.0)
    found = rows(out)
    assert [row["file_name"] for row in found] == [f"{number:04d}.png" for number in range(200)]
    assert found[0] == {
        "file_name": "0000.png",
        "text": "caption 0",
        "source": "caption",
        "epoch": 0,
    }
    assert found[9]["text"] == "alt 9"
    assert found[9]["source"] == "alt"
    assert summary.to_dict() == {
        "samples": 200,
        "without_caption": 20,
        "errors": 20,
        "without_alt": 0,
        "repeated": 0,
        "unreadable": 0,
        "captions": 180,
        "alts": 20,
        "missing_captions": 20,
        "left_out": 0,
        "share": 0.9,
    }


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(
    tmp_path: Path, captions: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(captions, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_order_of_the_rows_changes_no_choice(tmp_path: Path, captions: Path) -> None:
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(reversed(captions.read_text().splitlines())) + "\n")
    run(captions, tmp_path / "a")
    run(turned, tmp_path / "b")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")[::-1]


def test_captions_of_a_lower_ratio_are_captions_of_a_higher(tmp_path: Path, captions: Path) -> None:
    taken = []
    for ratio in (0.1, 0.4, 0.8):
        run(captions, tmp_path / str(ratio), ratio, num_epochs=1)
        found = rows(tmp_path / str(ratio))
        taken.append({row["file_name"] for row in found if row["source"] == "caption"})
    assert taken[0] < taken[1] < taken[2]


def test_every_epoch_has_a_file_and_draws_anew(tmp_path: Path, captions: Path) -> None:
    summary = run(captions, tmp_path / "m.jsonl", num_epochs=11)
    names = sorted(path.name for path in tmp_path.glob("m*"))
    assert names == [f"m-epoch{epoch:02d}.jsonl" for epoch in range(11)]
    sources = {tuple(row["source"] for row in rows(tmp_path / name)) for name in names}
    assert len(sources) == 11
    assert summary.num_captions + summary.num_alts == 11 * 200
    # What an epoch draws does not depend on how many there are.
    run(captions, tmp_path / "one.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / names[0]).read_bytes()


def test_alt_texts_of_a_file_stand_instead_of_those_in_the_rows(
    tmp_path: Path, captions: Path
) -> None:
    alts = tmp_path / "alts.csv"
    alts.write_text("file_name,alt\n0000.png,better\nonly-alt.png,alone\n0000.png,more\n")
    summary = run(captions, tmp_path / "m", ratio=0.0, alts=alts)
    found = {row["file_name"]: row["text"] for row in rows(tmp_path / "m")}
    assert found.keys() == {"0000.png", "only-alt.png"}
    assert found["0000.png"] in ("better", "more")
    assert summary.num_left_out == 199
    assert summary.num_without_alt == 199


def test_open_clip_reads_paths_and_titles(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    texts = ['say "hi", then', "tab\there", "NA", "plain", "null"]
    captions.write_text(
        "".join(
            json.dumps({"file_name": f"{i}.png", "alt": text, "caption": "c"}) + "\n"
            for i, text in enumerate(texts)
        )
    )
    expected = ['say "hi", then', "tab here", " NA", "plain", " null"]
    for name, separator in (("m.tsv", "\t"), ("m.csv", ","), ("m.txt", "\t")):
        out = tmp_path / name
        run(captions, out, 0.0, layout="open-clip", images="data/photos")
        with out.open(newline="") as file:
            found = list(csv.DictReader(file, delimiter=separator))
        assert [row["title"] for row in found] == expected
        assert [row["filepath"] for row in found] == [f"data/photos/{i}.png" for i in range(5)]


def test_image_generators_get_captions_alone_or_a_mixture(tmp_path: Path, captions: Path) -> None:
    alone, mixed = tmp_path / "alone" / "metadata.jsonl", tmp_path / "mixed" / "metadata.jsonl"
    summary = run(captions, alone, 1.0, layout="imagefolder", only_captions=True)
    assert rows(alone)[0] == {"file_name": "0000.png", "text": "caption 0"}
    assert len(rows(alone)) == 180
    assert summary.num_left_out == 20
    run(captions, mixed, 0.5, layout="imagefolder")
    words = [row["text"].split()[0] for row in rows(mixed)]
    assert len(words) == 200
    assert {"alt", "caption"} == set(words)


def test_metaclip_gets_the_drawn_captions_as_plain_texts(tmp_path: Path, captions: Path) -> None:
    out = tmp_path / "m.json"
    summary = run(captions, out, 0.5, layout="metaclip")
    run(captions, tmp_path / "rows", 0.5)
    drawn = {
        row["file_name"].removesuffix(".png"): row["text"]
        for row in rows(tmp_path / "rows")
        if row["source"] == "caption"
    }
    assert json.loads(out.read_text()) == drawn
    assert summary.num_captions == len(drawn)
    assert summary.share == len(drawn) / 200


def test_metaclip_shards_nested_become_plain_ones(tmp_path: Path) -> None:
    source = tmp_path / "nested"
    for shard in range(3):
        path = source / str(shard % 100) / f"{shard}.json"
        path.parent.mkdir(parents=True)
        data = {f"u{shard}{i}": {"altogether": f"c {shard} {i}"} for i in range(50)}
        path.write_text(json.dumps(data if shard else {"u": {"altogether": None}}))
    summary = run(source, tmp_path / "plain", 1.0, layout="metaclip")
    assert json.loads((tmp_path / "plain" / "0" / "0.json").read_text()) == {}
    second = json.loads((tmp_path / "plain" / "1" / "1.json").read_text())
    assert second == {f"u1{i}": f"c 1 {i}" for i in range(50)}
    assert (summary.num_captions, summary.num_missing_captions) == (100, 1)
    # Plain shards are read as well, and two epochs are two folders.
    run(tmp_path / "plain", tmp_path / "drawn", 0.5, layout="metaclip", num_epochs=2)
    first, other = (
        json.loads((tmp_path / f"drawn-epoch{epoch}" / "2" / "2.json").read_text())
        for epoch in range(2)
    )
    assert first != other
    assert first.items() <= {f"u2{i}": f"c 2 {i}" for i in range(50)}.items()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_uuid_is_the_name_without_folder_and_image_suffix(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    names = ["x/a.b.png", "y/3f2a.v1", "plain"]
    captions.write_text(
        "".join(json.dumps({"file_name": name, "caption": name}) + "\n" for name in names)
    )
    run(captions, tmp_path / "m.json", 1.0, layout="metaclip")
    found = json.loads((tmp_path / "m.json").read_text())
    assert list(found) == ["a.b", "3f2a.v1", "plain"]
    assert list(found.values()) == names


def test_two_images_of_one_uuid_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    captions.write_text(
        '{"file_name": "x/1.png", "caption": "a"}\n{"file_name": "y/1.jpg", "caption": "b"}\n'
    )
    with pytest.raises(AltogetherError, match="two images have the uuid '1'"):
        run(captions, tmp_path / "m.json", 1.0, layout="metaclip")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


def test_a_name_that_a_layout_cannot_hold_is_counted(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    names = ["caf\udce9.png", "b.png"]
    captions.write_text(
        "".join(
            json.dumps({"file_name": name, "alt": "x", "caption": "c"}) + "\n" for name in names
        )
    )
    summary = run(captions, tmp_path / "m.tsv", 0.0, layout="open-clip")
    assert (tmp_path / "m.tsv").read_text("utf-8") == "filepath\ttitle\nb.png\tx\n"
    assert summary.num_left_out == 1
    run(captions, tmp_path / "m.jsonl", 0.0)
    assert [row["file_name"] for row in rows(tmp_path / "m.jsonl")] == names


def test_a_folder_of_shards_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "1.json").write_text('{"a": "caption"}')
    (tmp_path / "mixed.json").write_text("{}")
    with pytest.raises(AltogetherError, match=r"mixed\.json is a file, and a folder"):
        run(tmp_path / "shards", tmp_path / "mixed.json", layout="metaclip", overwrite=True)
    assert (tmp_path / "mixed.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixed.json", "shards"]


def test_shards_in_another_layout_are_one_file(tmp_path: Path) -> None:
    for name, text in (("7/107.json", '{"b": "two", "c": null}'), ("12/3.json", '{"a": "one"}')):
        (tmp_path / "shards" / name).parent.mkdir(parents=True)
        (tmp_path / "shards" / name).write_text(text)
    summary = run(tmp_path / "shards", tmp_path / "m.jsonl", ratio=1.0)
    assert [(row["file_name"], row["text"]) for row in rows(tmp_path / "m.jsonl")] == [
        ("a", "one"),
        ("b", "two"),
    ]
    assert (summary.num_samples, summary.num_without_caption, summary.num_left_out) == (3, 1, 1)


def test_metaclip_gets_one_file_of_a_sharded_run(tmp_path: Path) -> None:
    """The run's own statistics, NAME_stats.json, are no shards of captions."""
    pytest.importorskip("pyarrow", reason="needs the extra shards")
    shards: dict[str, list[dict[str, Any]]] = {
        "train/00000": [{"key": "a.jpg", "alt": "x", "caption": "an a"}],
        "train/00001": [
            {"key": "b.jpg", "alt": "y", "caption": "a b"},
            {"key": "c.jpg", "alt": "z", "caption": None, "error_class": "e", "error": "m"},
        ],
    }
    write_run(tmp_path / "run", shards)
    summary = run(tmp_path / "run", tmp_path / "m.json", ratio=1.0, layout="metaclip")
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": "an a", "b": "a b"}
    assert (summary.num_samples, summary.num_failed, summary.num_captions) == (3, 1, 2)


def test_blank_captions_of_shards_are_none(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "1.json").write_text('{"a": "caption", "b": " \\n", "c": null}')
    summary = run(tmp_path / "shards", tmp_path / "out", ratio=1.0, layout="metaclip")
    assert (summary.num_samples, summary.num_without_caption, summary.num_captions) == (3, 2, 1)


def test_shards_that_fail_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.json").write_text('{"a": "b"}')
    (tmp_path / "in" / "2.json").write_text("[")
    with pytest.raises(AltogetherError, match=r"2\.json is not a JSON file"):
        run(tmp_path / "in", tmp_path / "out", 1.0, layout="metaclip")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_shards_that_were_stopped_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.json").write_text('{"a": "b"}')
    (tmp_path / "out.tmp").mkdir()
    with pytest.raises(AltogetherError, match=r"out\.tmp is left from a run that was stopped"):
        run(tmp_path / "in", tmp_path / "out", 1.0, layout="metaclip")
    assert (tmp_path / "out.tmp").is_dir() and not (tmp_path / "out").exists()


def test_a_name_that_no_file_can_have_is_an_absent_image(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    names = ["a\0b.png", "x" * 5000]
    captions.write_text("".join(json.dumps({"file_name": n, "caption": "c"}) + "\n" for n in names))
    summary = run(captions, tmp_path / "metadata.jsonl", 1.0, layout="imagefolder")
    assert (summary.num_looked_for, summary.num_absent) == (2, 2)


def test_a_full_disk_is_one_sentence(
    tmp_path: Path, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(SampleTable, "add", full)
    with pytest.raises(AltogetherError, match=r"disk is full.*SQLITE_TMPDIR"):
        run(captions, tmp_path / "m")


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path, captions: Path) -> None:
    out = tmp_path / "m.jsonl"
    out.write_text("mine")
    with pytest.raises(AltogetherError, match="exists already"):
        run(captions, out)
    assert out.read_text() == "mine"
    run(captions, out, overwrite=True)
    assert len(rows(out)) == 200
    alts = tmp_path / "alts.csv"
    alts.write_text("file_name,alt\n0000.png,an alt\n")
    for same in (captions, alts):
        with pytest.raises(AltogetherError, match="is an input"):
            run(captions, same, alts=alts, overwrite=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(AltogetherError, match="folder is a folder"):
        run(captions, tmp_path / "folder", overwrite=True)


def test_a_failed_run_leaves_what_was_there(
    tmp_path: Path, captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "m.jsonl"
    run(captions, out, num_epochs=1)
    before = out.read_bytes()

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mix(captions, out, MixPlan(MixDraw(1.0)), overwrite=True, advance=fail)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.jsonl", "m.jsonl"]


def test_repeated_images_count_and_the_first_stays(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    captions.write_text(
        '{"file_name": "a", "alt": "x", "caption": "first"}\n'
        '{"file_name": "a", "alt": "y", "caption": "second"}\n'
        '{"file_name": "a", "alt": "y", "error": "of another try"}\n'
    )
    summary = run(captions, tmp_path / "m", 1.0)
    assert [row["text"] for row in rows(tmp_path / "m")] == ["first"]
    assert (summary.num_samples, summary.num_repeated, summary.num_failed) == (1, 2, 0)


def test_a_file_without_captions_is_refused(tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    captions.write_text("not a row\n")
    with pytest.raises(AltogetherError, match=r"no captions: line 1: not JSON"):
        run(captions, tmp_path / "m")


@pytest.mark.parametrize(
    ("layout", "out", "images", "folder"),
    [
        ("imagefolder", "photos/metadata.jsonl", "", "photos"),
        ("open-clip", "m.tsv", "photos", "photos"),
        ("open-clip", "m.tsv", "s3://bucket/photos", None),
        ("rows", "m.jsonl", "photos", None),
        ("metaclip", "m.json", "photos", None),
    ],
)
def test_images_are_looked_for_where_a_trainer_will(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: Format,
    out: str,
    images: str,
    folder: str | None,
) -> None:
    """The first hundred, of which every second is there."""
    monkeypatch.chdir(tmp_path)
    captions = write_captions(tmp_path / "captions.jsonl", 120)
    (tmp_path / "photos").mkdir()
    for number in range(0, 120, 2):
        (tmp_path / "photos" / f"{number:04d}.png").touch()
    assert image_folder(layout, Path(out), images) == (None if folder is None else Path(folder))
    summary = run(captions, Path(out), layout=layout, images=images)
    looked_for, absent = (0, 0) if folder is None else (100, 50)
    assert (summary.num_looked_for, summary.num_absent) == (looked_for, absent)


def test_alt_texts_of_other_images_are_refused(tmp_path: Path, captions: Path) -> None:
    alts = tmp_path / "alts.csv"
    alts.write_text("file_name,alt\nphotos/0000.png,an alt\n")
    with pytest.raises(AltogetherError, match=r"no image of .* begins with '0000\.png'"):
        run(captions, tmp_path / "m", alts=alts)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("num_epochs", "name"), [(1, "m.tsv"), (10, "m-epoch3.tsv"), (11, "m-epoch03.tsv")]
)
def test_files_of_epochs_sort_by_number(num_epochs: int, name: str) -> None:
    assert epoch_path(Path("out/m.tsv"), 3, num_epochs) == Path("out") / name


def test_too_many_epochs_are_refused() -> None:
    with pytest.raises(AltogetherError, match="from 1 to 512"):
        MixPlan(MixDraw(0.5), num_epochs=513)


def test_share_of_a_hundred_thousand_rows_is_within_three_sigma(tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "c.jsonl", 100_000, missing_every=10**9)
    summary = run(captions, tmp_path / "m.jsonl", 0.15, seed=5)
    sigma = (100_000 * 0.15 * 0.85) ** 0.5
    assert abs(summary.num_captions - 15_000) < 3 * sigma
    assert summary.num_captions + summary.num_alts == 100_000
