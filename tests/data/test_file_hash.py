"""The hash by which a later run knows an image: of the whole file, and of nothing else."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from altogether_rt.data.file_hash import file_hash
from altogether_rt.data.images import ImageLimits

pytestmark = pytest.mark.lean


def test_a_file_of_several_reads_is_hashed_to_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    content = b"BM" + bytes(range(251)) * 4000  # more than a million
    path.write_bytes(content)
    assert file_hash(path) == file_hash(content) == hashlib.sha256(content).hexdigest()[:16]
    path.write_bytes(content[:-1] + b"x")
    assert file_hash(path) not in ("", file_hash(content))


def test_what_is_not_opened_has_no_hash(tmp_path: Path) -> None:
    """Where an image is refused, a later run has nothing to compare."""
    path, limits = tmp_path / "a.bmp", ImageLimits(max_bytes=100)
    path.write_bytes(bytes(100))
    assert file_hash(path, limits) == file_hash(path) != ""
    path.write_bytes(bytes(101))
    assert file_hash(path, limits) == ""
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "absent", ""):
        assert file_hash(tmp_path / name) == ""
