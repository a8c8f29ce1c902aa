"""The output file: whole or absent, resumable row by row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.rows import Row, encode_row, parse_row
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def row(name: str, text: str = "c") -> Row:
    return {"file_name": name, "alt": "", "caption": text}


def failure(name: str) -> Row:
    return {"file_name": name, "alt": "", "error": {"class": "empty", "message": "No."}}


def accept(row: Row) -> None:
    return None


def run(out: Path, names: list[str], *, finish: bool = True, **options: Any) -> list[str]:
    """Writes what is missing of `names`; returns that."""
    with JsonlSink(out) as sink:
        done = sink.recover(accept, **options)
        todo = [name for name in names if name not in done]
        for name in todo:
            sink.write(row(name))
        if finish:
            sink.finish()
    return todo


def written(path: Path) -> list[str]:
    rows = [parse_row(line + b"\n") for line in path.read_bytes().splitlines()]
    return [row["file_name"] for row in rows if row is not None]


def test_finished_file_is_all_that_is_left(tmp_path: Path) -> None:
    out = tmp_path / "new" / "captions.jsonl"
    run(out, ["a", "b"])
    assert out.read_bytes() == encode_row(row("a")) + encode_row(row("b"))
    assert os.listdir(out.parent) == ["captions.jsonl"]


def test_stopped_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["a", "b"], finish=False)
    assert not out.exists()
    assert run(out, ["a", "b", "c"]) == ["c"]
    assert written(out) == ["a", "b", "c"]


@pytest.mark.parametrize("cut", range(2, 40, 3))
def test_half_written_row_is_cut(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "c.jsonl"
    whole = encode_row(row("a")) + encode_row(row("b"))
    Path(f"{out}.part").write_bytes(whole[:-cut])
    assert run(out, ["a", "b"]) == ["b"]
    assert out.read_bytes() == whole


def test_wreckage_in_the_journal_is_set_aside_and_what_follows_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    wreckage = b"\0" * 50 + b"\n"
    part = encode_row(row("a")) + wreckage + encode_row(row("b"))
    Path(f"{out}.part").write_bytes(part + b'{"file_name": "c", "al')
    assert run(out, ["a", "b", "c"], finish=False) == ["c"]
    assert run(out, ["a", "b", "c"]) == []
    assert written(out) == ["a", "b", "c"]
    assert Path(f"{out}.set-aside").read_bytes() == wreckage
    assert sorted(os.listdir(tmp_path)) == ["c.jsonl", "c.jsonl.set-aside"]


@pytest.mark.parametrize("where", ["", ".part"])
def test_a_missing_last_line_end_costs_no_row(tmp_path: Path, where: str) -> None:
    out = tmp_path / "c.jsonl"
    whole = encode_row(row("a")) + encode_row(row("b"))
    Path(f"{out}{where}").write_bytes(whole[:-1])
    assert run(out, ["a", "b"]) == []
    assert out.read_bytes() == (whole if where else whole[:-1])
    assert run(out, ["a", "b", "c"]) == ["c"]
    assert written(out) == ["a", "b", "c"]


def test_wreckage_and_doubled_rows_in_the_output_are_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    lines = [row("a", "first"), row("b"), row("a", "second"), failure("a"), row("c")]
    out.write_bytes(b"garbage\n" + b"".join(map(encode_row, lines)) + b"\xff\xfe")
    with JsonlSink(out) as sink:
        assert sink.recover(accept) == {"a", "b", "c"}
        assert [row["caption"] for row in sink.rows()] == ["c", "second", "c"]
        sink.finish()
    assert sink.problems.count == 4
    assert out.read_bytes() == b"".join(map(encode_row, (row("a", "second"), row("b"), row("c"))))
    assert Path(f"{out}.set-aside").read_bytes() == (
        b"garbage\n" + encode_row(row("a", "first")) + encode_row(failure("a")) + b"\xff\xfe\n"
    )
    before = out.stat()
    assert run(out, ["a", "b", "c"]) == []
    assert out.stat().st_ino == before.st_ino


@pytest.mark.parametrize("content", [b"by hand\n", b"by hand", b"{}\n{}\n"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_are_not_replaced(tmp_path: Path, content: bytes, overwrite: bool) -> None:
    for name in ("c.jsonl", "c.jsonl.part"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AltogetherError, match="remove"):
            run(tmp_path / "c.jsonl", ["a"], overwrite=overwrite)
        assert (tmp_path / name).read_bytes() == content
        (tmp_path / name).unlink()


def test_an_output_that_disappears_is_not_merged_without_its_rows(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    for harm in (Path.unlink, lambda path: path.write_bytes(b"")):
        run(out, ["a", "b"])
        with JsonlSink(out) as sink:
            sink.recover(accept)
            sink.write(row("c"))
            harm(out)
            with pytest.raises(AltogetherError, match=r"the new rows are in .*c.jsonl.part"):
                sink.finish()
        assert Path(f"{out}.part").read_bytes() == encode_row(row("c"))
        os.unlink(f"{out}.part")


def test_new_files_take_their_place(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["b", "d"])
    assert run(out, ["a", "b", "c", "d", "e"]) == ["a", "c", "e"]
    assert written(out) == ["a", "b", "c", "d", "e"]
    assert os.listdir(tmp_path) == ["c.jsonl"]


def test_new_files_between_a_kill_and_its_rerun(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["b", "c"], finish=False)
    assert run(out, ["a", "b", "c"]) == ["a"]
    assert written(out) == ["a", "b", "c"]


def test_nothing_new_leaves_the_file_alone(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["a", "b"])
    before = out.stat()
    assert run(out, ["a", "b"]) == []
    assert run(out, ["a"]) == []  # a smaller limit loses nothing
    after = out.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["c.jsonl"]


def test_rows_of_images_that_are_gone_stay(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["a", "gone", "z"])
    run(out, ["a", "b", "z"])
    assert written(out) == ["a", "b", "gone", "z"]


def test_kill_between_the_last_two_steps(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["a", "b"])
    Path(f"{out}.part").write_bytes(encode_row(row("b")))  # merged, its journal not yet removed
    assert run(out, ["a", "b"]) == []
    assert written(out) == ["a", "b"]
    assert os.listdir(tmp_path) == ["c.jsonl"]


def test_overwrite_keeps_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["a", "b", "c"])
    old = out.read_bytes()
    run(out, ["a"], finish=False, overwrite=True)
    assert out.read_bytes() == old
    assert run(out, ["a", "b"], overwrite=True) == ["a", "b"]
    assert written(out) == ["a", "b"]


def test_failed_rows_are_tried_again_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    out.write_bytes(encode_row(row("a")) + encode_row(failure("b")) + encode_row(failure("x")))
    assert run(out, ["a", "b"]) == []
    assert run(out, ["a", "b"], retry_errors=True) == ["b"]
    assert out.read_bytes() == (
        encode_row(row("a")) + encode_row(row("b")) + encode_row(failure("x"))
    )


def test_refusal_names_the_file_and_the_ways_out(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    run(out, ["a"])
    with (
        JsonlSink(out) as sink,
        pytest.raises(AltogetherError, match=r"c.jsonl holds captions of old.*--overwrite"),
    ):
        sink.recover(lambda row: "of old")
    assert os.listdir(tmp_path) == ["c.jsonl"]
    run(tmp_path / "d.jsonl", ["a"], finish=False)
    with (
        JsonlSink(tmp_path / "d.jsonl") as sink,
        pytest.raises(AltogetherError, match=r"d.jsonl.part holds captions of old"),
    ):
        sink.recover(lambda row: "of old")
    assert run(tmp_path / "d.jsonl", ["a"]) == []  # and it was kept


def test_foreign_file_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "alts.jsonl"
    out.write_text('{"file_name": "a.jpg", "alt": "x"}\n')
    with pytest.raises(AltogetherError, match=r"line 1 of .* is not a row of captions"):
        run(out, ["a.jpg"])
    assert out.read_text() == '{"file_name": "a.jpg", "alt": "x"}\n'


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    out = tmp_path / "c.jsonl"
    with JsonlSink(out) as sink:
        sink.recover(accept)
        sink.write(row("a"))
        with pytest.raises(AltogetherError, match="another run is writing"):
            JsonlSink(out)
        sink.finish()
        with JsonlSink(out) as second:  # the first is done, though its file is still open
            assert second.recover(accept) == {"a"}
    assert written(out) == ["a"]


def test_folder_as_output(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="is a folder"):
        JsonlSink(tmp_path)


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "caf\udce9.jpg", "a\u2028b.jpg", "日本.jpg", 'q".jpg']
)
def test_any_name_is_one_line_and_comes_back(name: str) -> None:
    line = encode_row(row(name, "naïve"))
    assert line.count(b"\n") == 1
    assert len(line.decode("utf-8").splitlines()) == 1
    parsed = parse_row(line)
    assert parsed is not None
    assert parsed["file_name"] == name
    assert (b"\\u" in line) == (name in ("caf\udce9.jpg", "a\u2028b.jpg"))


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"{}\n", b"[]\n", b'{"file_name": "a", "caption": "x"', b'{"file_name": 3}\n',
     b'{"file_name": "a", "caption": 3}\n', b'{"file_name": "a", "error": "x"}\n', b"\xff\n"],
)  # fmt: skip
def test_what_is_no_row(line: bytes) -> None:
    assert parse_row(line) is None
