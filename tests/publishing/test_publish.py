"""Exports shard by shard: going on, refusing, counting what is lacking, object stores."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import iter_captions
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.inputs import find_shards
from altogether_rt.publishing.layouts import MetaClipLayout
from altogether_rt.publishing.publish import export_rows, export_shards
from altogether_rt.publishing.run import open_run
from altogether_rt.publishing.tables import ParquetLayout
from altogether_rt.publishing.tar_layout import TarLayout
from altogether_rt.publishing.tars import IntoJson
from tests.publishing.examples import members_of, write_run, write_tar

pytest.importorskip("pyarrow", reason="needs the extra parquet")

ROWS: dict[str, list[dict[str, Any]]] = {
    "train/7": [
        {"key": "a", "alt": "an alt", "caption": "one", "finish_reason": "eos", "tokens": 3},
        {"key": "b", "alt": "", "error_class": "broken", "error": "It is broken."},
        {"key": "c", "alt": "", "caption": None},
        {"key": "a", "alt": "again", "caption": "another"},
    ],
    "val/8": [{"key": "a", "alt": "", "caption": "two"}],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", ROWS)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The tars that ROWS are of; the second one is compressed."""
    folder = tmp_path / "in"
    write_tar(folder / "train/7.tar", [(f"{key}.png", b"x") for key in "abc"])
    write_tar(folder / "val/8.tar", [("a.png", b"x"), ("z.png", b"z")])
    packed = folder / "val/8.tar"
    (folder / "val/8.tar.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    write_tar(folder / "other/9.tar", [])  # which the run is not of
    return folder


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """An object store in memory."""
    fsspec = pytest.importorskip("fsspec", reason="needs the extra shards")
    url = "memory://bucket"
    yield url
    fsspec.filesystem("memory").store.clear()


def into_json(shards: Path | str, spool: Spool) -> TarLayout:
    return TarLayout(find_shards(str(shards), spool, "webdataset"), IntoJson())


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_counts_say_what_became_of_every_row(tmp_path: Path, run: Path, spool: Spool) -> None:
    summary = export_shards(
        open_run(str(run)), open_store(tmp_path / "out"), MetaClipLayout("plain"), spool
    )
    assert summary.counts == ExportCounts(rows=5, captions=2, failed=1, missing=1, repeated=1)
    assert json.loads((tmp_path / "out/7/7.json").read_text()) == {"a": "one"}
    assert summary.is_complete and (summary.shards, summary.shards_skipped) == (2, 0)


def test_captions_of_samples_that_are_not_there_are_counted(tmp_path: Path, spool: Spool) -> None:
    write_tar(tmp_path / "in/1.tar", [("a.png", b"x")])
    texts = {"a": "one", "b": "two", "c": None}
    rows = [{"key": key, "alt": "", "caption": text} for key, text in texts.items()]
    captions = open_run(str(write_run(tmp_path / "run", {"1": rows})))
    layout = into_json(tmp_path / "in", spool)
    counts = export_shards(captions, open_store(tmp_path / "out"), layout, spool).counts
    assert (counts.captions, counts.without_sample, counts.missing) == (1, 1, 1)


def test_it_goes_on_where_it_was_stopped(
    tmp_path: Path, run: Path, shards: Path, spool: Spool
) -> None:
    layout = into_json(shards, spool)
    whole, out = tmp_path / "whole", tmp_path / "out"
    export_shards(open_run(str(run)), open_store(whole), layout, spool)

    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        export_shards(open_run(str(run)), open_store(out), layout, spool, advance=stop)
    assert [path.name for path in (out / "train").iterdir()] == ["7.tar"]
    before = (out / "train/7.tar").stat().st_mtime_ns
    summary = export_shards(open_run(str(run)), open_store(out), layout, spool)
    assert (summary.shards, summary.shards_skipped) == (2, 1)
    assert (out / "train/7.tar").stat().st_mtime_ns == before
    assert members_of(out / "train/7.tar") == members_of(whole / "train/7.tar")
    assert (out / "val/8.tar").read_bytes() == (whole / "val/8.tar").read_bytes()
    # Counts are of all shards, whenever they were written.
    assert summary.counts == ExportCounts(
        rows=5, captions=2, failed=1, missing=1, repeated=1, without_row=1
    )


def test_a_shard_whose_input_changed_is_written_again(
    tmp_path: Path, run: Path, spool: Spool
) -> None:
    out = open_store(tmp_path / "out")
    export_shards(open_run(str(run)), out, MetaClipLayout(), spool)
    write_run(run, {"val/8": [{"key": "a", "alt": "", "caption": "mended"}]})
    summary = export_shards(open_run(str(run)), out, MetaClipLayout(), spool)
    assert summary.shards_skipped == 1
    assert json.loads((tmp_path / "out/8/8.json").read_text()) == {"a": "mended"}
    (tmp_path / "out/7/7.json").write_text("{}")  # and one whose output did
    assert export_shards(open_run(str(run)), out, MetaClipLayout(), spool).shards_skipped == 1
    assert json.loads((tmp_path / "out/7/7.json").read_text()) == {"a": "one"}


@pytest.mark.parametrize(
    "change",
    [{"counts": {"surplus": 1}}, {"counts": 3}, {"note": ...}, {"output": "0-0"}, {"inputs": []}],
)
def test_a_shard_whose_state_says_something_else_is_written_again(
    tmp_path: Path, run: Path, spool: Spool, change: dict[str, Any]
) -> None:
    """One that another version wrote, or whose file somebody replaced."""
    out = open_store(tmp_path / "out")
    export_shards(open_run(str(run)), out, MetaClipLayout(), spool)
    state = tmp_path / "out/.export/shards/train/7.json"
    said = state.read_text()
    changed = json.loads(said) | change
    state.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))
    summary = export_shards(open_run(str(run)), out, MetaClipLayout(), spool)
    assert (summary.shards, summary.shards_skipped) == (2, 1)
    assert summary.counts.captions == 2
    again = json.loads(state.read_text())
    assert again.keys() == json.loads(said).keys() and again["counts"] != change.get("counts")


def test_other_settings_are_refused(tmp_path: Path, run: Path, spool: Spool) -> None:
    out = open_store(tmp_path / "out")
    export_shards(open_run(str(run)), out, MetaClipLayout("plain"), spool)
    before = content(tmp_path / "out")
    with pytest.raises(AltogetherError, match=r"other settings.*plain.*--overwrite"):
        export_shards(open_run(str(run)), out, MetaClipLayout("nested"), spool)
    assert content(tmp_path / "out") == before
    summary = export_shards(
        open_run(str(run)), out, MetaClipLayout("nested"), spool, overwrite=True
    )
    assert summary.shards_skipped == 0
    assert json.loads((tmp_path / "out/8/8.json").read_text()) == {"a": {"altogether": "two"}}


def test_a_stopped_overwrite_does_not_mix_settings(tmp_path: Path, run: Path, spool: Spool) -> None:
    out = open_store(tmp_path / "out")
    export_shards(open_run(str(run)), out, MetaClipLayout("plain"), spool)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_shards(
            open_run(str(run)), out, MetaClipLayout("nested"), spool, overwrite=True, advance=stop
        )
    summary = export_shards(open_run(str(run)), out, MetaClipLayout("nested"), spool)
    assert summary.shards_skipped == 1
    for number, text in ((7, "one"), (8, "two")):
        found = json.loads((tmp_path / f"out/{number}/{number}.json").read_text())
        assert found == {"a": {"altogether": text}}


def test_one_shard_that_fails_does_not_stop_the_others(
    tmp_path: Path, run: Path, shards: Path, spool: Spool
) -> None:
    (shards / "train/7.tar").unlink()
    layout = into_json(shards, spool)
    summary = export_shards(open_run(str(run)), open_store(tmp_path / "out"), layout, spool)
    assert not summary.is_complete
    assert summary.failed.count == 1
    assert "there is no shard train/7 among" in summary.failed.examples[0]
    assert [name for name in content(tmp_path / "out") if name[0] != "."] == ["val/8.tar"]
    packed = shards / "val/8.tar.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    summary = export_shards(open_run(str(run)), open_store(tmp_path / "out2"), layout, spool)
    assert (summary.failed.count, summary.notes.count) == (1, 1)  # what was unpacked is written
    assert "8.tar.gz: its gzip data are cut off" in str(summary.notes)
    assert members_of(tmp_path / "out2/val/8.tar")["a.json"] == b'{"altogether": "two"}'


def test_a_damaged_tar_is_written_as_far_as_it_goes_and_said(
    tmp_path: Path, run: Path, shards: Path, spool: Spool
) -> None:
    tar = shards / "train/7.tar"
    tar.write_bytes(tar.read_bytes()[:1100])
    layout = into_json(shards, spool)
    for skipped in (0, 2):  # the second time nothing is written, and it is said again
        summary = export_shards(open_run(str(run)), open_store(tmp_path / "out"), layout, spool)
        assert summary.shards_skipped == skipped
        assert summary.counts.damaged == 1 and not summary.is_complete
        assert "train/7.tar: it is cut off at byte 1,100, within a header" in str(summary.notes)


def test_unfinished_shards_are_left_out_and_counted(
    tmp_path: Path, run: Path, spool: Spool
) -> None:
    (run / "val/8_stats.json").unlink()
    (run / "_work/train/9").mkdir(parents=True)
    (run / "_work/train/9/part.parquet").write_bytes(b"PAR1")
    (run / "_shards.json").write_text('{"train/7": 4, "val/8": null, "train/9": 9}')
    summary = export_shards(
        open_run(str(run)), open_store(tmp_path / "out"), ParquetLayout(), spool
    )
    assert (summary.shards, summary.unfinished) == (1, 2)
    assert not summary.is_complete
    (run / "train/7_stats.json").unlink()  # none has statistics: something else wrote them
    assert len(open_run(str(run)).names) == 2


def test_shards_of_an_earlier_run_are_none_of_this_one(tmp_path: Path, spool: Spool) -> None:
    """A run with --overwrite that is not over has left files of the one before."""
    run = write_run(tmp_path / "run", ROWS, {"bundle": "new"})
    former = write_run(tmp_path / "former", {"val/8": ROWS["val/8"]}, {"bundle": "old"})
    for name in ("val/8.parquet", "val/8_stats.json"):
        (run / name).write_bytes((former / name).read_bytes())
    found = open_run(str(run))
    assert found.names == ("train/7.parquet",) and found.num_unfinished == 1
    captions = {record.caption for record in iter_captions(run, Problems())} - {None}
    assert captions == {row["caption"] for row in ROWS["train/7"] if row.get("caption")}
    (run / "train/7_stats.json").write_bytes((former / "val/8_stats.json").read_bytes())
    with pytest.raises(AltogetherError, match="there are no captions"):
        open_run(str(run))
    with pytest.raises(AltogetherError, match="has no finished shard of its run yet"):
        list(iter_captions(run, Problems()))


def test_first_samples_alone_are_not_a_finished_shard(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ROWS, {"bundle": "b"})
    path = run / "train/7_stats.json"
    path.write_text(path.read_text().replace('"state": "done"', '"state": "limited"'))
    found = open_run(str(run))
    assert len(found.names) == 2 and found.num_unfinished == 1


def test_damaged_captions_are_not_exported(tmp_path: Path, spool: Spool) -> None:
    """A single bit of a text can change without a reader of Parquet noticing."""
    run = write_run(tmp_path / "run", ROWS, {"bundle": "b"})
    path = run / "train/7.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    summary = export_shards(open_run(str(run)), open_store(tmp_path / "o"), ParquetLayout(), spool)
    assert (summary.shards, summary.failed.count) == (1, 1)
    assert "train/7.parquet is not the file that was written" in str(summary.failed)
    assert "remove it, and the command that captioned makes it again" in str(summary.failed)


def test_two_shards_with_one_output_are_refused(tmp_path: Path, spool: Spool) -> None:
    run = write_run(tmp_path / "run", {"a/7": [], "b/07": []})
    with pytest.raises(AltogetherError, match=r"a/7 and b/07 would both become 7/7\.json"):
        export_shards(open_run(str(run)), open_store(tmp_path / "out"), MetaClipLayout(), spool)


def test_metaclip_needs_numbers(tmp_path: Path, spool: Spool) -> None:
    run = write_run(tmp_path / "run", {"part-a": []})
    with pytest.raises(AltogetherError, match="opens shards by their number, and 'part-a' is none"):
        export_shards(open_run(str(run)), open_store(tmp_path / "out"), MetaClipLayout(), spool)


def test_rows_read_like_those_of_caption(tmp_path: Path, spool: Spool) -> None:
    run = write_run(tmp_path / "run", ROWS, {"bundle": "abc", "max_pixels": 5})
    advanced: list[int] = []
    summary = export_rows(
        open_run(str(run)), open_store(tmp_path), "c.jsonl", spool, lambda: advanced.append(1)
    )
    assert (summary.shards, len(advanced)) == (2, 2)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "file_name": "train/7/a",
        "alt": "an alt",
        "caption": "one",
        "finish_reason": "eos",
        "tokens": 3,
        "bundle": "abc",
    }
    assert rows[1] == {
        "file_name": "train/7/b",
        "alt": "",
        "error": {"class": "broken", "message": "It is broken."},
    }
    assert rows[2]["error"] == {"class": "missing", "message": "There is no caption."}
    assert len(rows) == 5 and summary.counts.captions == 3
    records = list(iter_captions(tmp_path / "c.jsonl", Problems()))
    assert [record.caption for record in records] == ["one", None, None, "another", "two"]
    # The run itself reads the same, for `mix`.
    assert [r.key for r in iter_captions(run, Problems())] == [r.key for r in records]


def test_tables_with_and_without_images_do_not_stand_together(
    tmp_path: Path, run: Path, shards: Path, spool: Spool
) -> None:
    out = open_store(tmp_path / "out")
    export_shards(open_run(str(run)), out, ParquetLayout(), spool)
    with_images = ParquetLayout(find_shards(str(shards), spool, "webdataset"))
    with pytest.raises(AltogetherError, match="holds an export with other settings"):
        export_shards(open_run(str(run)), out, with_images, spool)


def test_errors_of_rows_stay_what_they_are(tmp_path: Path, spool: Spool) -> None:
    path = tmp_path / "captions.jsonl"
    row = {"file_name": "a.png", "alt": "x", "error": {"class": "unreadable", "message": "Cut."}}
    path.write_text(json.dumps(row) + "\n")
    export_rows(open_run(str(path)), open_store(tmp_path), "out.jsonl", spool)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row


def test_a_file_of_rows_is_a_run_of_one_shard(tmp_path: Path, spool: Spool) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(
        '{"file_name": "x/1.jpg", "alt": ["p", "q"], "caption": "one"}\n{broken\n'
        '{"file_name": "x/2.jpg", "alt": "", "error": {"class": "broken", "message": "No."}}\n'
    )
    summary = export_shards(
        open_run(str(path)), open_store(tmp_path / "out"), ParquetLayout(), spool
    )
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "out" / "captions.parquet")
    assert table.to_pylist() == [
        {"key": "x/1.jpg", "shard": "captions", "alts": ["p", "q"], "caption": "one"}
    ]
    assert summary.counts == ExportCounts(rows=2, captions=1, failed=1, unreadable=1)


def test_an_object_store_at_every_end(
    tmp_path: Path, run: Path, shards: Path, bucket: str, spool: Spool
) -> None:
    pytest.importorskip("fsspec")
    for folder, name in ((run, "run"), (shards, "in")):
        remote = open_store(f"{bucket}/{name}")
        for file, data in content(folder).items():
            remote.write(file, data)
    layout = into_json(f"{bucket}/in", spool)
    out = open_store(f"{bucket}/out")
    summary = export_shards(open_run(f"{bucket}/run"), out, layout, spool)
    assert summary.is_complete and summary.counts.captions == 2
    names = sorted(name for name in out.all_files() if not name.startswith(".export/"))
    assert names == ["train/7.tar", "val/8.tar"]
    local = into_json(shards, spool)
    export_shards(open_run(str(run)), open_store(tmp_path / "out"), local, spool)
    for name in names:
        assert out.read(name) == (tmp_path / "out" / name).read_bytes()
    assert export_shards(open_run(f"{bucket}/run"), out, layout, spool).shards_skipped == 2


@pytest.mark.parametrize("where", ["nothing", "nothing.jsonl", "empty"])
def test_no_captions(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        AltogetherError, match=r"^there (are no captions in|is no file of captions)"
    ):
        open_run(str(tmp_path / where))


def test_a_url_that_nothing_opens() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(AltogetherError, match="nosuch"):
        open_store("nosuch://bucket")


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_export_never_replaces_what_it_reads(
    tmp_path: Path, run: Path, shards: Path, spool: Spool, overwrite: bool
) -> None:
    """The tars that were captioned, also by another name of their folder, and the captions."""
    (tmp_path / "link").symlink_to(shards)
    before = content(shards), content(run)
    folders = {shards: into_json(shards, spool), run: ParquetLayout()}
    folders[tmp_path / "link"] = folders[tmp_path / "link/../in"] = folders[shards]
    for folder, layout in folders.items():
        with pytest.raises(AltogetherError, match=r"7\.\w+, which it reads: choose another"):
            export_shards(
                open_run(str(run)), open_store(folder), layout, spool, overwrite=overwrite
            )
    with pytest.raises(AltogetherError, match="which it reads"):
        export_rows(open_run(str(run)), open_store(run / "val"), "8.parquet", spool)
    assert (content(shards), content(run)) == before


def test_an_export_into_the_store_that_it_reads(bucket: str, spool: Spool, run: Path) -> None:
    store = open_store(f"{bucket}/run")
    for name, data in content(run).items():
        store.write(name, data)
    with pytest.raises(AltogetherError, match="which it reads"):
        export_shards(open_run(f"{bucket}/run"), store, ParquetLayout(), spool)
    assert store.read("val/8.parquet") == content(run)["val/8.parquet"]


def test_files_that_no_export_wrote_stay(tmp_path: Path, run: Path, spool: Spool) -> None:
    out = tmp_path / "out"
    (out / "val").mkdir(parents=True)
    (out / "val/8.parquet").write_bytes(b"metadata of a downloader")
    with pytest.raises(AltogetherError, match=r"no export wrote.*\(val/8\.parquet\).*--overwrite"):
        export_shards(open_run(str(run)), open_store(out), ParquetLayout(), spool)
    assert content(out) == {"val/8.parquet": b"metadata of a downloader"}
    summary = export_shards(
        open_run(str(run)), open_store(out), ParquetLayout(), spool, overwrite=True
    )
    assert summary.shards == 2 and (out / "val/8.parquet").read_bytes()[:4] == b"PAR1"
