"""Shards in datasets on the Hugging Face hub: the hub's own client, a hub on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fsspec", reason="needs the extra shards")
pytest.importorskip("huggingface_hub", reason="needs the extra hf")

import fsspec

from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.spool import Spool
from altogether_rt.errors import AltogetherError
from tests.data.shards.hub_datasets import DATASET, DatasetHub, dataset_hub
from tests.shards_fixtures import png, tar_bytes, webdataset_shard

URL = f"hf://datasets/{DATASET}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetHub]:
    """Two shards of three samples in `train/`, and a page beside them."""
    with dataset_hub() as hub:
        hub.files = {
            f"train/{number:05}.tar": tar_bytes(webdataset_shard(3, first=3 * number))
            for number in range(2)
        } | {"README.md": b"# Scenes"}
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.endpoint, "token": False})
        yield hub


@pytest.mark.parametrize(
    "text", [URL, f"{URL}/train", f"{URL}/train/*.tar", f"{URL}/train/{{00000..00001}}.tar"]
)
def test_listing(hub: DatasetHub, text: str) -> None:
    shards = list_shards([text])
    assert [shard.url for shard in shards] == [f"{URL}/train/{n:05}.tar" for n in range(2)]
    sizes = [len(hub.files[f"train/{n:05}.tar"]) for n in range(2)]
    assert [shard.num_bytes for shard in shards] == sizes
    assert shards[0].etag != shards[1].etag
    assert all(shard.etag and len(shard.etag) == 40 for shard in shards)  # git's hash


def test_every_sample_is_read_with_few_requests(hub: DatasetHub, tmp_path: Path) -> None:
    """The hub limits how often it may be asked: no folder is listed again for a shard."""
    shards = list_shards([f"{URL}/train"])
    hub.asked.clear()
    found = []
    with Spool(tmp_path, 1 << 30) as spool:
        for shard in shards:
            with open_shard(shard, spool=spool) as source:
                found += [sample.image for sample in source.samples()]
    assert found == [png(number) for number in range(6)]
    assert hub.asked == {"paths": 4, "content": 2}


def test_a_file_that_is_replaced_is_not_read(hub: DatasetHub, tmp_path: Path) -> None:
    shards = list_shards([f"{URL}/train"])
    size = len(hub.files["train/00001.tar"])
    hub.files["train/00001.tar"] = tar_bytes(webdataset_shard(3, first=90))
    assert len(hub.files["train/00001.tar"]) == size
    with Spool(tmp_path, 1 << 30) as spool:
        with open_shard(shards[0], spool=spool) as source:
            assert len(list(source.samples())) == 3
        with (
            pytest.raises(AltogetherError, match="changed after it was listed"),
            open_shard(shards[1], spool=spool),
        ):
            pass


def test_what_is_not_there_may_be_private(hub: DatasetHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "secret"  # the hub answers as if there were no such dataset
    with pytest.raises(AltogetherError, match=r"no hf://\S+, or it is private: hf auth login"):
        list_shards([f"{URL}/train"])
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.endpoint, "token": "secret"})
    assert len(list_shards([f"{URL}/train"])) == 2
