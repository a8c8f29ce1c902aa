"""Caches that others may write to are not used, and files that change while they are opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from altogether_rt.artifacts.private import is_private, make_private_folder
from altogether_rt.artifacts.stamps import FileStamps
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean


def test_what_others_may_write_to_is_not_private(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    file.chmod(0o644)
    assert is_private(file)
    for mode in (0o666, 0o664, 0o622):
        file.chmod(mode)
        assert not is_private(file)
    file.chmod(0o600)
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "fifo")
    assert not is_private(tmp_path / "link")
    assert not is_private(tmp_path / "fifo")
    assert not is_private(tmp_path / "absent")


def test_a_folder_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b")
        (tmp_path / "open").mkdir(mode=0o777)
        make_private_folder(tmp_path / "open")
    finally:
        os.umask(before)
    assert is_private(tmp_path / "a" / "b")
    assert is_private(tmp_path / "open")


@pytest.mark.parametrize("how", ["written", "replaced", "removed", "written, with its old time"])
def test_a_file_changed_between_check_and_use_is_noticed(tmp_path: Path, how: str) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"old")
    stamps = FileStamps.take([file, tmp_path / "absent"])
    stamps.check()
    status = file.stat()
    if how == "removed":
        file.unlink()
    elif how == "replaced":
        (tmp_path / "g").write_bytes(b"new")
        (tmp_path / "g").replace(file)
    else:
        file.write_bytes(b"new")
    if how.endswith("time"):
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(AltogetherError, match="was changed while it was being opened"):
        stamps.check()
