"""Shards on an object store: listed, fetched ahead within bounds, and none lost to failures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from altogether_rt.data.shards import storage
from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.spool import Spool
from altogether_rt.data.shards.stores import fetching
from altogether_rt.errors import AltogetherError
from tests.shards_fixtures import png, write_webdataset


@pytest.fixture
def dataset(object_store: str, tmp_path: Path) -> str:
    """Three shards of four samples in `train/`."""
    import s3fs

    folder = write_webdataset(tmp_path / "data", 3, 4)
    s3fs.S3FileSystem().put(str(folder), f"{object_store}/train", recursive=True)
    return f"{object_store}/train"


def test_listing(dataset: str) -> None:
    for text in (dataset, dataset + "/*.tar", dataset + "/{00000..00002}.tar"):
        shards = list_shards([text])
        assert [shard.name for shard in shards] == ["00000", "00001", "00002"]
        assert [shard.url for shard in shards] == [f"{dataset}/{n:05}.tar" for n in range(3)]
        assert all(shard.etag and shard.num_bytes for shard in shards)
    with pytest.raises(AltogetherError, match="there is no s3://"):
        list_shards([dataset + "/00009.tar"])
    with pytest.raises(AltogetherError, match="s3://no-such-bucket"):
        list_shards(["s3://no-such-bucket-here/a.tar"])


def test_samples_and_the_spool(dataset: str, tmp_path: Path) -> None:
    spool_folder = tmp_path / "spool"
    shards = list_shards([dataset])
    images = []
    with Spool(spool_folder) as spool:
        for index, shard in enumerate(shards):
            if index + 1 < len(shards):
                spool.prefetch(shards[index + 1])
            with open_shard(shard, spool=spool) as source:
                images += [sample.image for sample in source.samples()]
                assert source.shard.num_expected == 4 and source.ending.kind == "whole"
        assert list(spool_folder.rglob("0*")) == [], "nothing stays"
    assert images == [png(number) for number in range(12)]
    assert list(spool_folder.iterdir()) == []


def test_the_spool_is_bounded(dataset: str, tmp_path: Path) -> None:
    shards = list_shards([dataset])
    size = shards[0].num_bytes or 0
    with Spool(tmp_path / "spool", max_bytes=size + 10) as spool:
        spool.prefetch(shards[1])
        spool.prefetch(shards[2])  # no room
        with spool.local(shards[0]) as path:  # takes the room of the one that was fetched ahead
            assert path.stat().st_size == size
            assert len(list(path.parent.glob("0*"))) == 1
        for shard in shards[1:]:
            with spool.local(shard) as path:
                assert path.stat().st_size == size
    with (
        Spool(tmp_path / "spool", max_bytes=size - 1) as spool,
        pytest.raises(AltogetherError, match="--spool-bytes"),
        spool.local(shards[0]),
    ):
        pass


def test_shards_that_change(dataset: str, tmp_path: Path) -> None:
    import s3fs

    shards = list_shards([dataset])
    fs = s3fs.S3FileSystem()
    fs.pipe_file(shards[0].url, b"shorter")
    fs.rm_file(shards[1].url)
    with Spool(tmp_path) as spool:
        for shard, words in zip(
            shards, ("changed after it was listed", "there is no s3://"), strict=False
        ):
            with pytest.raises(AltogetherError, match=words), spool.local(shard):
                pass


def test_a_server_that_fails_loses_nothing(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third request fails or brings too little, in small blocks so that there are many."""
    shards = list_shards([dataset])
    pauses: list[float] = []
    monkeypatch.setattr("altogether_rt.data.shards.storage.sleep", pauses.append)
    monkeypatch.setattr(fetching, "_BLOCK_BYTES", 1000)
    calls = 0
    import s3fs

    original = s3fs.S3FileSystem._cat_file

    async def failing(self: Any, path: str, **options: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls % 6 == 0:
            raise TimeoutError("slow down")
        data: bytes = await original(self, path, **options)
        return data[:-1] if calls % 6 == 3 else data

    monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", failing)
    s3fs.S3FileSystem.clear_instance_cache()
    images = []
    with Spool(tmp_path / "spool") as spool:
        for shard in shards:
            with open_shard(shard, spool=spool) as source:
                images += [sample.image for sample in source.samples()]
    assert images == [png(number) for number in range(12)]
    assert calls > 30 and len(pauses) >= calls // 6
    assert all(0 < pause <= 0.2 for pause in pauses), "after one success they start again"


def test_trying_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("altogether_rt.data.shards.storage.sleep", pauses.append)

    def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        storage.retried(fail)
    assert len(pauses) == 7 and pauses[-1] > pauses[0]


def test_spools_of_killed_processes_are_removed(tmp_path: Path) -> None:
    import os

    old = tmp_path / "altogether-spool-old"
    new = tmp_path / "altogether-spool-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "lock").write_bytes(b"")
        (folder / "000001").write_bytes(b"x")
    an_hour_ago = time.time() - 3600
    os.utime(old, (an_hour_ago, an_hour_ago))
    with Spool(tmp_path) as first:
        held = first._new_path().parent
        os.utime(held, (an_hour_ago, an_hour_ago))
        with Spool(tmp_path) as second:
            second._new_path()
            assert held.is_dir(), "somebody holds its lock"
    assert not old.exists() and new.exists()
