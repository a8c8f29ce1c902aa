"""The journal that both sinks write: locked, only ever a file of ours, and whole line by line."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from altogether_rt.captions import EmbeddedImage
from altogether_rt.data.embeddings import EncoderStamp, SavedEmbeddings
from altogether_rt.data.rows import encode_row
from altogether_rt.data.sinks.embeddings import EmbeddingSink
from altogether_rt.data.sinks.journal import Journal
from altogether_rt.data.sinks.jsonl import JsonlSink
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean

STAMP = EncoderStamp("0123456789ab", 2)
IMAGE = EmbeddedImage(b"0" * 16, np.array([1, 2], np.float32))
SINKS: list[Callable[[Path], object]] = [
    JsonlSink,
    lambda path: EmbeddingSink(path, STAMP),
    Journal,
]


def keep(line: bytes) -> bytes | None:
    return line if line.endswith(b"\n") else None


def lines(journal: Journal) -> list[tuple[int, bytes, int]]:
    return list(journal.rows(keep))


def test_lines_and_offsets(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "out")
    assert [journal.append(line) for line in (b"a\n", b"bc\n", b"d\n")] == [0, 2, 5]
    assert journal.size == 7
    assert lines(journal) == [(0, b"a\n", 2), (2, b"bc\n", 3), (5, b"d\n", 2)]
    journal.become_output()
    journal.close()
    journal.close()
    assert (tmp_path / "new" / "out").read_bytes() == b"a\nbc\nd\n"
    assert os.listdir(tmp_path / "new") == ["out"]


def test_a_full_disk_is_told_of_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much of the line as there was room for may stand there: recovery cuts it."""
    journal = Journal(tmp_path / "out")
    write = os.write
    room = [3]

    def write_some(descriptor: int, data: memoryview) -> int:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", write_some)
    with pytest.raises(OSError, match="No space left") as caught:
        journal.append(b"abcdef\n")
    monkeypatch.undo()
    assert caught.value.filename == str(tmp_path / "out.part")
    journal.close()
    assert Path(tmp_path / "out.part").read_bytes() == b"abc"
    with closing(Journal(tmp_path / "out")) as again:
        assert list(again.recover(keep)) == []


def test_recovery_cuts_a_half_written_line(tmp_path: Path) -> None:
    part = tmp_path / "out.part"
    part.write_bytes(b"a\nbc\nhalf")
    journal = Journal(tmp_path / "out")
    assert [row for _, row, _ in journal.recover(keep)] == [b"a\n", b"bc\n"]
    assert part.read_bytes() == b"a\nbc\n"
    assert journal.append(b"d\n") == 5
    journal.close()
    assert part.read_bytes() == b"a\nbc\nd\n"


def test_an_empty_journal_is_removed(tmp_path: Path) -> None:
    Journal(tmp_path / "out").close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("open_sink", SINKS)
@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "fifo", "folder"])
def test_what_is_no_journal_of_ours_is_left_alone(
    tmp_path: Path, open_sink: Callable[[Path], object], kind: str
) -> None:
    victim, out = tmp_path / "bashrc", tmp_path / "data" / "out.npy"
    victim.write_text("mine")
    out.parent.mkdir()
    part = Path(f"{out}.part")
    if kind == "link":
        part.symlink_to(victim)
    elif kind == "dangling":
        part.symlink_to(tmp_path / "new")
    elif kind == "hard link":
        os.link(victim, part)
    elif kind == "fifo":
        os.mkfifo(part)
    else:
        part.mkdir()
    with pytest.raises(AltogetherError, match="is a link or not a regular file"):
        open_sink(out)
    assert victim.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["bashrc", "data"]
    assert os.listdir(out.parent) == [part.name]


@pytest.mark.parametrize("open_sink", SINKS)
def test_two_runs_on_one_output(tmp_path: Path, open_sink: Callable[[Path], object]) -> None:
    first = open_sink(tmp_path / "out.npy")
    with pytest.raises(AltogetherError, match="another run is writing"):
        open_sink(tmp_path / "out.npy")
    del first


@pytest.mark.parametrize("open_sink", SINKS)
def test_a_journal_that_became_the_output_meanwhile_is_not_taken(
    tmp_path: Path, open_sink: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run finishes between our opening of its journal and our locking of it."""
    out = tmp_path / "out.npy"
    part, flock = Path(f"{out}.part"), fcntl.flock
    part.write_bytes(b"theirs\n")

    def flock_late(descriptor: int, operation: int) -> None:
        if part.exists() and not (tmp_path / "done").exists():
            part.rename(tmp_path / "done")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    sink = open_sink(out)
    assert (tmp_path / "done").read_bytes() == b"theirs\n"
    assert part.exists()
    del sink


def test_a_journal_that_was_replaced_is_neither_read_nor_renamed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    journal = Journal(out)
    journal.append(b"ours\n")
    journal.path.unlink()
    with pytest.raises(AltogetherError, match="removed, moved or replaced"):
        journal.become_output()
    journal.path.write_bytes(b"theirs\n")
    for use in (journal.become_output, journal.open):
        with pytest.raises(AltogetherError, match="removed, moved or replaced"):
            use()
    journal.close()
    assert not out.exists()
    assert journal.path.read_bytes() == b"theirs\n"


def test_merging_writes_through_no_link(tmp_path: Path) -> None:
    victim, out = tmp_path / "bashrc", tmp_path / "data" / "c.jsonl"
    victim.write_text("mine")
    out.parent.mkdir()
    out.write_bytes(encode_row({"file_name": "b", "alt": "", "caption": "c"}))
    for name in ("c.jsonl.tmp", ".c.jsonl.tmp", "e.npy.tmp", "e.names.jsonl.tmp"):
        (out.parent / name).symlink_to(victim)
    with JsonlSink(out) as sink:
        sink.recover(lambda row: None)
        sink.write({"file_name": "a", "alt": "", "caption": "c"})
        sink.finish()
    with EmbeddingSink(out.parent / "e.npy", STAMP) as embeddings:
        embeddings.write("a", IMAGE)
        embeddings.finish()
    assert [json.loads(line)["file_name"] for line in out.read_text().splitlines()] == ["a", "b"]
    assert list(SavedEmbeddings(out.parent / "e.npy", STAMP).names()) == ["a"]
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"{}",
        b'{"file_name": 3}',
        b'{"file_name": "b", "content": "00", "embedding": ""}',
        b'{"file_name": "b", "content": "' + b"0" * 32 + b'", "embedding": "?"}',
        b"[" * 100_000,
        b"\xff",
        b'{"file_name": "b"',
    ],
)
def test_wreckage_in_a_journal_of_embeddings_ends_it(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "e.npy"
    with EmbeddingSink(path, STAMP) as sink:
        sink.write("a", IMAGE)
    part = Path(f"{path}.part")
    values = base64.b64encode(bytes(8)).decode()
    row = {"file_name": "c", "content": "0" * 32, "embedding": values}
    part.write_bytes(part.read_bytes() + line + b"\n" + json.dumps(row).encode() + b"\n")
    with EmbeddingSink(path, STAMP) as sink:
        assert "a" in sink
        assert "b" not in sink
        assert "c" not in sink
        sink.write("d", IMAGE)
        sink.finish()
    assert list(SavedEmbeddings(path, STAMP).names()) == ["a", "d"]
