"""Whole or absent: files and folders, whatever lies in their way and whenever the writer dies."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from altogether_rt.artifacts import files
from altogether_rt.artifacts.files import NewFile, NewFolder, new_file, write_or_send, write_whole
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("before")
    with new_file(target) as file:
        file.write(b"after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"
    write_whole(target, "naïve")
    assert target.read_bytes() == b"na\xc3\xafve"
    assert names(tmp_path) == ["f"]


def fail_after(_: object) -> None:
    raise OSError("no space left")


def test_an_error_leaves_the_file_and_no_litter(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("before")
    with pytest.raises(OSError, match="no space"), new_file(target) as file:
        fail_after(file.write(b"half"))
    with pytest.raises(KeyboardInterrupt), new_file(target) as file:
        raise KeyboardInterrupt
    with NewFile(target):
        pass  # without commit
    assert target.read_text() == "before"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("fails", ["flush_to_disk", "os.replace"])
def test_an_error_at_the_end_leaves_the_file_and_no_litter(
    tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    target = tmp_path / "f"
    target.write_text("before")
    if fails == "os.replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(files, "flush_to_disk", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(target, "after")
    assert target.read_text() == "before"
    assert names(tmp_path) == ["f"]


def write_to_full_disk(target: Path) -> None:
    with NewFile(target) as new, open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), new.file.fileno())
        new.file.write(b"buffered")
        raise ValueError("the writer's own")


def test_a_full_disk_leaves_no_litter(tmp_path: Path) -> None:
    """What is buffered cannot be written when the file is closed either."""
    with pytest.raises(ValueError, match="the writer's own"):
        write_to_full_disk(tmp_path / "f")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "named"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)]
)
def test_a_full_disk_is_named_by_the_file(tmp_path: Path, number: int, named: bool) -> None:
    """EIO may come of reading something else within the block."""
    failing = pytest.raises(OSError, match=re.escape(os.strerror(number)))
    with failing as caught, new_file(tmp_path / "f"):
        raise OSError(number, os.strerror(number))
    assert caught.value.filename == (str(tmp_path / "f") if named else None)


def test_a_killed_writer_leaves_the_former_file(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("before")
    code = (
        "import os, sys; from altogether_rt.artifacts.files import new_file\n"
        "with new_file(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)])
    assert done.returncode == -9
    assert target.read_text() == "before"
    write_whole(target, "after")  # what the killed writer left is not in the way
    assert target.read_text() == "after"


def test_links_at_the_temporary_name_are_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, folder = tmp_path / "bashrc", tmp_path / "data"
    victim.write_text("mine")
    folder.mkdir()
    # Even if the name were guessed: the file is created exclusively.
    monkeypatch.setattr(secrets, "token_hex", lambda n: "0" * 16)
    for name in (".f.0000000000000000.tmp", ".new.0000000000000000.tmp", ".f.tmp", "f.tmp"):
        (folder / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(folder / "f", "theirs")
    with pytest.raises(FileExistsError), NewFolder(folder / "new"):
        pass
    assert victim.read_text() == "mine"
    assert victim.exists()


def test_temporary_names_differ_and_fit(tmp_path: Path) -> None:
    for name in ("x" * 255, "日" * 85, "f"):
        with NewFile(tmp_path / name) as first, NewFile(tmp_path / name) as second:
            assert first.path != second.path
            first.file.write(b"1")
            first.commit()
        assert (tmp_path / name).read_bytes() == b"1"
        with NewFolder(tmp_path / ("d" + name[:-1])) as folder:
            folder.commit()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_names_are_kept_where_the_locale_has_ascii_alone(tmp_path: Path) -> None:
    """Their other bytes are no characters of it, and are given back to the system as they came."""
    code = (
        "import os, sys; from altogether_rt.artifacts.files import write_whole\n"
        "for length in (1, 100):\n"
        "    write_whole(os.path.join(sys.argv[1], os.fsdecode(b'\\xc3\\xbc' * length)), '\\xfc')\n"
    )
    env = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, stderr=-1)
    assert done.returncode == 0, done.stderr
    for name in ("ü", "ü" * 100):
        assert (tmp_path / name).read_text("utf-8") == "ü"
    assert len(os.listdir(tmp_path)) == 2


def test_what_utf8_cannot_hold_is_written_as_json_has_it(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xfc.png")
    write_whole(tmp_path / "f", json.dumps(["ü", name, "\ud800"], ensure_ascii=False))
    assert json.loads((tmp_path / "f").read_text("utf-8")) == ["ü", name, "\ud800"]


@pytest.mark.parametrize("follow", [False, True])
def test_a_link_as_target(tmp_path: Path, follow: bool) -> None:
    real, link = tmp_path / "elsewhere" / "real", tmp_path / "link"
    real.parent.mkdir()
    real.write_text("before")
    link.symlink_to(real)
    write_whole(link, "after", follow=follow)
    assert link.read_text() == "after"
    assert link.is_symlink() == follow
    assert real.read_text() == ("after" if follow else "before")
    assert names(real.parent) == ["real"]


def test_links_are_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("before")
    for name in ("a", "b", "c"):
        (tmp_path / name).symlink_to(real)
    write_whole(tmp_path / "a", "after")
    with new_file(tmp_path / "b") as file:
        file.write(b"after")
    with NewFile(tmp_path / "c") as new:
        new.file.write(b"after")
        new.commit()
    assert [(tmp_path / name).is_symlink() for name in "abc"] == [False] * 3
    assert real.read_text() == "before"


def test_devices_and_the_like_are_not_replaced(tmp_path: Path) -> None:
    fifo, folder, path = tmp_path / "fifo", tmp_path / "folder", tmp_path / "socket"
    os.mkfifo(fifo)
    folder.mkdir()
    (tmp_path / "null").symlink_to(os.devnull)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        for target in (fifo, path, Path(os.devnull)):
            with pytest.raises(AltogetherError, match="is not a regular file"):
                write_whole(target, "x")
    with pytest.raises(AltogetherError, match="is not a regular file"):
        write_whole(tmp_path / "null", "x", follow=True)
    with pytest.raises(AltogetherError, match="is a folder"):
        write_whole(folder, "x")
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_modes_are_those_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "f", "x")
        with NewFolder(tmp_path / "d") as new:
            new.commit()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


def make_folder(target: Path, text: str, *, first_wins: bool = False) -> None:
    with NewFolder(target) as new:
        (new.path / "sub").mkdir()
        (new.path / "sub" / "f").write_text(text)
        new.commit(first_wins=first_wins)


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "above" / "d"
    make_folder(target, "1")
    make_folder(target, "2")
    assert (target / "sub" / "f").read_text() == "2"
    with pytest.raises(OSError, match="no space"), NewFolder(target) as new:
        fail_after((new.path / "f").write_text("half"))
    assert (target / "sub" / "f").read_text() == "2"
    assert names(target.parent) == ["d"]


def test_a_link_to_a_folder_is_replaced_and_not_what_it_leads_to(tmp_path: Path) -> None:
    make_folder(tmp_path / "real", "1")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    make_folder(tmp_path / "link", "2")
    assert (tmp_path / "real" / "sub" / "f").read_text() == "1"
    assert (tmp_path / "link" / "sub" / "f").read_text() == "2"
    assert names(tmp_path) == ["link", "real"]


def test_all_files_of_a_folder_are_on_the_disk_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, flushed = tmp_path / "d", set[str]()

    def flush(path: Path) -> None:
        assert not target.exists()
        flushed.add(path.name)

    monkeypatch.setattr(files, "flush_to_disk", flush)
    with NewFolder(target) as new:
        (new.path / "sub").mkdir()
        for name in ("f", "sub/g"):
            (new.path / name).write_text("x")
        new.commit()
    assert flushed == {"f", "g"}


@pytest.mark.parametrize("first_wins", [False, True])
def test_two_that_make_one_folder(
    tmp_path: Path, first_wins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process puts its folder there after ours has moved the former one away."""
    target, rename = tmp_path / "d", os.rename

    def rename_late(source: Path, destination: Path) -> None:
        if destination == target:
            monkeypatch.setattr(os, "rename", rename)
            make_folder(target, "theirs")
        rename(source, destination)

    make_folder(target, "former")
    monkeypatch.setattr(os, "rename", rename_late)
    if first_wins:
        make_folder(target, "ours", first_wins=True)
    else:
        with pytest.raises(OSError, match="not empty"):
            make_folder(target, "ours")
    assert (target / "sub" / "f").read_text() == "theirs"


def test_a_folder_that_cannot_be_renamed_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "d", os.rename
    failed: list[Path] = []

    def fail_once(source: Path, destination: Path) -> None:
        if destination == target and not failed:
            failed.append(source)
            raise OSError("disk error")
        rename(source, destination)

    make_folder(target, "former")
    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="disk error"):
        make_folder(target, "new")
    assert (target / "sub" / "f").read_text() == "former"
    assert names(tmp_path) == ["d"]


def test_text_is_sent_to_pipes_and_to_our_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_or_send(tmp_path / "f", "kept")
    os.link(tmp_path / "f", tmp_path / "former")
    write_or_send(tmp_path / "f", "new")  # as a file of its own: it is whole whenever it is read
    assert ((tmp_path / "f").read_text(), (tmp_path / "former").read_text()) == ("new", "kept")
    write_or_send("/dev/null", "gone")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_or_send(tmp_path / "pipe", "sent")
    assert os.read(reader, 9) == b"sent"
    os.close(reader)
    # As `> f` of a shell: replacing f would lose what is printed later.
    status = (tmp_path / "f").stat()
    monkeypatch.setattr("altogether_rt.artifacts.files.os.fstat", lambda descriptor: status)
    write_or_send(tmp_path / "f", "printed")
    assert capsys.readouterr().out == "printed"
    assert (tmp_path / "f").stat().st_ino == status.st_ino
