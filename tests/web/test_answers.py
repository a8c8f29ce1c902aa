"""Answer files: nothing that was confirmed is lost, whatever happens next."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from altogether_rt.errors import AltogetherError
from altogether_rt.web.answers import (
    AnswerFile,
    answer_files,
    check_annotator,
    latest_rows,
    read_answers,
)

pytestmark = pytest.mark.lean


def test_rows_come_back_and_the_last_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "anna.jsonl"
    rows = [{"task": "1", "n": 1}, {"task": "2", "n": 2}, {"task": "1", "n": 3, "t": "\u2028é"}]
    with AnswerFile(path) as file:
        for row in rows:
            file.append(row)
        assert file.rows == rows
    assert read_answers(path) == rows
    assert latest_rows(read_answers(path), lambda row: str(row["task"])) == {
        "1": rows[2],
        "2": rows[1],
    }
    with AnswerFile(path) as file:
        assert file.rows == rows
        file.append({"task": "3"})
    assert len(path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("size", range(1, 20))
def test_a_half_written_last_row_is_left_out_and_then_replaced(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jsonl"
    whole, torn = b'{"task": "1"}\n', b'{"task": "222222"}\n'
    path.write_bytes(whole + torn[:size])
    expected = [{"task": "1"}] + ([{"task": "222222"}] if size == len(torn) else [])
    assert read_answers(path) == expected
    with AnswerFile(path) as file:
        file.append({"task": "3"})
    complete = size >= len(torn) - 1  # all but its line end
    middle = [{"task": "222222"}] if complete else []
    assert read_answers(path) == [{"task": "1"}, *middle, {"task": "3"}]


def test_a_damaged_row_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"task": "1"}\n{"tas\n{"task": "3"}\n')
    with pytest.raises(AltogetherError, match=r"line 2 of .*a\.jsonl is not a JSON object"):
        read_answers(path)
    with pytest.raises(AltogetherError, match="line 2"):
        AnswerFile(path)
    path.write_bytes(b'{"task": "1"}\n')
    AnswerFile(path).close()  # the failure above did not keep the lock


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "anna.jsonl"
    code = f"""
from pathlib import Path
from altogether_rt.web.answers import AnswerFile
AnswerFile(Path({str(path)!r}))
"""
    with AnswerFile(path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "another process is writing" in done.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    write = os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, bytes(data)[:8])

    with AnswerFile(path) as file:
        file.append({"task": "1"})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(OSError, match="No space"):
                file.append({"task": "two"})
        file.append({"task": "3"})
        assert file.rows == [{"task": "1"}, {"task": "3"}]
    assert read_answers(path) == [{"task": "1"}, {"task": "3"}]


def test_each_row_is_synced_before_it_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with AnswerFile(tmp_path / "a.jsonl") as file:
        monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(descriptor))
        file.append({"task": "1"})
        assert len(synced) == 1


@pytest.mark.parametrize("name", ["anna", "a", "7", "a-b_c", "x" * 32])
def test_names_of_annotators(name: str) -> None:
    assert check_annotator(name) == name


@pytest.mark.parametrize("name", ["", "Anna", "../a", "a/b", "a.b", "-a", "é", "x" * 33, "a\n"])
def test_names_that_cannot_be_file_names_are_refused(name: str) -> None:
    with pytest.raises(AltogetherError, match="cannot be an annotator's name"):
        check_annotator(name)


def test_files_of_others_are_not_taken_for_answers(tmp_path: Path) -> None:
    for name in ("ben.jsonl", "anna.jsonl", "Notes.jsonl", "anna.jsonl.tmp"):
        (tmp_path / name).write_text(json.dumps({}) + "\n")
    assert list(answer_files(tmp_path)) == ["anna", "ben"]
