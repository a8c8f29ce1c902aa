"""Plain headers read as the standard library reads them, and the window that files are read by."""

from __future__ import annotations

import os
import random
import tarfile
from pathlib import Path
from typing import Literal

import pytest

from altogether_rt.data.shards.tar_headers import FileWindow, plain_header

pytestmark = pytest.mark.lean

Format = Literal[0, 1, 2]


def header(name: str = "a.jpg", tar_format: Format = tarfile.GNU_FORMAT, **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = 1234
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tar_format, "utf-8", "surrogateescape")[-512:]


def by_library(block: bytes) -> tarfile.TarInfo | None:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except Exception:
        return None


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_usual_headers_are_plain(tar_format: Format) -> None:
    for name in ("a.jpg", "000000123.json", "n" * 100, "ü.png", "f/g.txt", "raw\udcff.png"):
        assert plain_header(header(name, tar_format)) == (name, 1234)
    assert plain_header(header(tar_format=tar_format, mtime=1.7e9, mode=0o777)) == ("a.jpg", 1234)
    assert plain_header(header(tar_format=tar_format, size=0)) == ("a.jpg", 0)


def test_others_are_left_to_the_library() -> None:
    kinds = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_SPARSE]
    others = [header(type=kind) for kind in kinds]
    others += [header(size=1 << 40), header("p/" * 80 + "a.jpg", tarfile.USTAR_FORMAT)]
    for block in [*others, bytes(512), b"", header()[:500], header() + b"\0"]:
        assert plain_header(block) is None
    assert by_library(others[-1]) is not None, "with a prefix"


def test_what_is_plain_is_what_the_library_reads() -> None:
    """Headers changed at random, with the right checksum, a signed one, or that of before."""
    rng = random.Random(5)
    num_plain = num_refused = 0
    for _ in range(20_000):
        block = bytearray(header(rng.choice(["a.jpg", "ü" * 40, "x" * 100])))
        for _ in range(rng.randrange(3)):
            block[rng.randrange(512)] = rng.choice([0, 0x20, 0x2F, 0x30, 0x37, 0x38, 0x80, 0xFF])
        if rng.random() < 0.8:
            block[148:156] = b"        "
            total = sum(block) if rng.random() < 0.9 else sum((b ^ 0x80) - 0x80 for b in block)
            block[148:156] = b"%06o\0 " % max(0, total)
        plain, info = plain_header(bytes(block)), by_library(bytes(block))
        if plain is None:
            num_refused += info is None
            continue
        num_plain += 1
        assert info is not None and info.isreg() and info.sparse is None
        assert plain == (info.name, info.size)
    assert num_plain > 5000 and num_refused > 500


def test_window_reads_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = random.Random(3).randbytes(5000)
    path.write_bytes(content)
    rng = random.Random(4)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for kept in (0, 100, 1000):
            window = FileWindow(descriptor, 300, kept)
            at = 0
            for _ in range(2000):
                at = rng.choice([at, at + 50, rng.randrange(5200)])
                size = rng.choice([0, 1, 40, 299, 300, 700])
                assert window.read(size, at) == content[at : at + size]
                at += size if at < 4900 else -4900
    finally:
        os.close(descriptor)


def test_window_knows_what_a_range_lacks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b".." * 100 + b"mark" + b"." * 796)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        window = FileWindow(descriptor, 300, kept=250)
        assert window.has(b"mark", 0, 100), "nothing has been read yet"
        window.read(10, 0)
        assert not window.has(b"mark", 0, 203) and window.has(b"mark", 0, 204)
        assert not window.has(b"mark", 201, 300) and window.has(b"mark", 200, 300)
        assert window.has(b"mark", 250, 301), "it goes beyond what has been read"
        window.read(10, 295)  # reads on, and keeps what was before
        assert window.has(b"mark", 44, 46), "no longer kept"
        assert not window.has(b"mark", 45, 46)
        assert window.has(b"mark", 45, 595) and not window.has(b"mark", 201, 595)
    finally:
        os.close(descriptor)
