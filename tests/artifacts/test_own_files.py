"""A file that a command did not write is not replaced by it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from altogether_rt.artifacts.own_files import check_own
from altogether_rt.errors import AltogetherError

pytestmark = pytest.mark.lean

KIND = re.compile(rb"<page>")


def test_only_a_file_of_the_kind_or_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    check_own(path, KIND, "a page")
    for head in (b"", b"<page> and more"):
        path.write_bytes(head)
        check_own(path, KIND, "a page")
    path.write_bytes(b"mine <page>")
    with pytest.raises(AltogetherError, match=r"out is not a page, and it is not replaced: name"):
        check_own(path, KIND, "a page")
    check_own(path / "below a file", KIND, "a page")


def test_nothing_is_read_through_a_link_or_a_fifo(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("mine")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):  # they are replaced, or refused, by who writes
        check_own(tmp_path / name, KIND, "a page")
