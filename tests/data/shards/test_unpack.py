"""Compressed tars: read as far as they go, and never to more than the spool holds."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.spool import Spool
from altogether_rt.errors import AltogetherError
from tests.shards_fixtures import no_file_larger, png, tar_bytes, webdataset_shard


def compressed(kind: str, raw: bytes) -> bytes:
    if kind == "gz":
        return gzip.compress(raw, 1)
    zstandard = pytest.importorskip("zstandard")
    data: bytes = zstandard.ZstdCompressor().compress(raw)
    return data


def read(folder: Path, raw: bytes, name: str = "a.tar.gz") -> tuple[list[object], Ending]:
    path = folder / name
    path.write_bytes(raw)
    with (
        Spool(folder / "spool", max_bytes=1 << 20) as spool,
        open_shard(Shard("a", str(path)), spool=spool) as source,
    ):
        return [sample.image for sample in source.samples()], source.ending


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_whole(tmp_path: Path, kind: str) -> None:
    raw = tar_bytes(webdataset_shard(20))
    expected = [png(number) for number in range(20)]
    assert read(tmp_path, compressed(kind, raw)) == (expected, Ending("whole"))
    halves = compressed(kind, raw[:5000]) + compressed(kind, raw[5000:])
    assert read(tmp_path, halves) == (expected, Ending("whole")), "several streams"
    padded = compressed(kind, raw) + bytes(3000)
    assert read(tmp_path, padded) == (expected, Ending("whole"))


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_cut_off(tmp_path: Path, kind: str) -> None:
    raw = compressed(kind, tar_bytes(webdataset_shard(20)))
    images, ending = read(tmp_path, raw[: len(raw) // 2])
    assert ending.kind == "truncated" and ending.offset == len(raw) // 2
    assert ending.message.startswith("its ") and not ending.is_complete
    if kind == "gz":  # Zstandard has put all of this into one block
        whole = [image for image in images if isinstance(image, bytes)]
        assert whole == [png(number) for number in range(len(whole))] and len(whole) > 3


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_damaged(tmp_path: Path, kind: str) -> None:
    raw = bytearray(compressed(kind, tar_bytes(webdataset_shard(20))))
    raw[-6] ^= 255  # of the checksum (gz), of the data (zst)
    images, ending = read(tmp_path, bytes(raw))
    assert ending.kind == "damaged"
    if kind == "gz":
        assert len(images) == 20, "all that came before is there"
    images, ending = read(tmp_path, compressed(kind, tar_bytes(webdataset_shard(2))) + b"junk" * 9)
    assert ending.kind == "damaged" and len(images) == 2


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_bombs(tmp_path: Path, kind: str) -> None:
    with pytest.raises(AltogetherError, match="unpacks to more than 1,048,576 bytes"):
        read(tmp_path, compressed(kind, bytes(50 << 20)))


def test_other_compressions(tmp_path: Path) -> None:
    with pytest.raises(AltogetherError, match="bzip2"):
        read(tmp_path, b"BZh91AY&SY" * 10)


def test_a_full_disk_under_the_spool_is_not_the_shards_fault(tmp_path: Path) -> None:
    raw = compressed("gz", bytes(1 << 20))
    with (
        pytest.raises(AltogetherError, match=r"^the spool in .* has no room .*--spool"),
        no_file_larger(1 << 19),
    ):
        read(tmp_path, raw)
