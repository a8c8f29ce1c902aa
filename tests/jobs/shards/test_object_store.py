"""Outputs on an object store: the bytes of a disk, whole or absent, however often it fails."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.sinks.shards.objects import ObjectStore
from altogether_rt.data.sinks.shards.open_store import open_store
from altogether_rt.data.sinks.shards.store import LocalStore, OutputStore
from altogether_rt.errors import AltogetherError
from altogether_rt.jobs.executor import LocalExecutor
from altogether_rt.jobs.shards.engine import LocalShardEngine
from altogether_rt.jobs.shards.run import caption_shards, plan_run
from altogether_rt.jobs.shards.status import read_status
from tests.fake_captioner import FakeCaptioner
from tests.jobs.shards.flaky import flaky_server
from tests.jobs.shards.stand_ins import job_for, make_tars
from tests.shards_fixtures import object_store, s3_server

__all__ = ["object_store", "s3_server"]


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> OutputStore:
    if request.param == "disk":
        return open_store(tmp_path / "out")
    return open_store(request.getfixturevalue("object_store") + "/out")


def test_a_store_keeps_what_it_promises(store: OutputStore) -> None:
    assert isinstance(store, LocalStore | ObjectStore)
    assert store.read("a") is None and list(store.all_files()) == [] and store.files("x/y") == []
    assert store.create("a", b"1") and not store.create("a", b"2") and store.read("a") == b"1"
    store.write("a", b"3")
    store.write("x/b", b"4")
    with store.new_file("x/y/c") as file:
        file.write(b"55")
    assert sorted(store.all_files()) == ["a", "x/b", "x/y/c"]
    assert store.files("x") == ["x/b"]
    assert store.exists("x/y/c") and not store.exists("x/y") and not store.exists("x/none")
    assert dict(store.read_many(["a", "x/y/c", "none"])) == {
        "a": b"3",
        "x/y/c": b"55",
        "none": None,
    }
    with store.open("x/y/c") as file:
        assert file.seek(1) == 1 and file.read() == b"5"
    with pytest.raises(FileNotFoundError), store.open("none"):
        pass
    store.remove(["a", "x/y/c", "none"])
    assert list(store.all_files()) == ["x/b"] and not store.exists("x/y/c")


def test_what_is_left_by_an_exception_is_not_there(store: OutputStore) -> None:
    store.write("old", b"whole")
    for name in ("old", "new"):
        with pytest.raises(TypeError), store.new_file(name) as file:
            assert file.write(b"half") + len(7)  # type: ignore[arg-type]
    assert store.read("old") == b"whole" and store.read("new") is None
    assert list(store.all_files()) == ["old"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("rows")
    with pytest.raises(AltogetherError, match="is a file"):
        open_store(tmp_path / "out")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """FAT and SMB refuse them, buckets that are mounted do not know them."""

    def link(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    store = open_store(tmp_path / "out")
    assert store.create("x/a", b"1") and not store.create("x/a", b"2") and store.read("x/a") == b"1"
    assert list(store.all_files()) == ["x/a"] and len(list((tmp_path / "out/x").iterdir())) == 1


def caption(shards: list[Shard], out: str) -> FakeCaptioner:
    captioner = FakeCaptioner()
    job = job_for(out)
    plan = plan_run(shards, job)
    with LocalShardEngine(lambda: nullcontext(LocalExecutor(captioner))) as engine:
        summary = caption_shards(plan, job, engine)
    assert summary.shards == {"done": len(shards)}
    return captioner


def files_of(out: str) -> dict[str, bytes | None]:
    store = open_store(out)
    return {name: store.read(name) for name in store.all_files() if "_stats" not in name}


def test_the_same_bytes_as_on_a_disk(tmp_path: Path, object_store: str) -> None:
    shards = make_tars(tmp_path / "in", 2, 20)
    caption(shards, str(tmp_path / "out"))
    caption(shards, f"{object_store}/out")
    assert files_of(f"{object_store}/out") == files_of(str(tmp_path / "out"))
    status = read_status(f"{object_store}/out")
    assert status.shards == {"done": 2} and status.counts.rows == 40
    assert caption(shards, f"{object_store}/out").requests == []


def test_a_store_that_fails_one_request_in_ten(
    tmp_path: Path, object_store: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a request was done and its answer lost: a claim or a marker is still one's own."""
    import s3fs

    shards = make_tars(tmp_path / "in", 4, 20)
    caption(shards, str(tmp_path / "out"))
    with flaky_server(s3_server, one_in=10) as server:
        s3fs.S3FileSystem.clear_instance_cache()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        captioner = caption(shards, f"{object_store}/out")
        assert files_of(f"{object_store}/out") == files_of(str(tmp_path / "out"))
        assert server.num_failed >= 10
    captioned = read_status(tmp_path / "out").counts.captioned
    assert len(captioner.requests) == captioned  # none was made twice


def test_a_bucket_that_is_not_there(object_store: str) -> None:
    with pytest.raises(OSError, match=r"there is no bucket for s3://no-such-bucket-here/out"):
        open_store("s3://no-such-bucket-here/out").create("a", b"1")


def test_what_may_not_be_written_is_not_tried_again(
    object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Expired credentials: s3fs raises PermissionError, gcsfs an OSError of words."""
    store = open_store(f"{object_store}/out")
    assert isinstance(store, ObjectStore)
    for error in (PermissionError("The token has expired."), OSError("Forbidden: b/o")):
        calls = []

        def refuse(*arguments: object, error: OSError = error, **options: object) -> None:
            calls.append(arguments)  # noqa: B023
            raise error

        monkeypatch.setattr(store._fs, "pipe_file", refuse)
        with pytest.raises(PermissionError, match=r"/out refuses this .*; look at the credentials"):
            store.write("a", b"1")
        assert len(calls) == 1


@pytest.mark.parametrize("url", ["https://example.org/out", "hf://datasets/owner/name/out"])
def test_stores_that_captions_cannot_be_written_to(url: str) -> None:
    pytest.importorskip("huggingface_hub" if url.startswith("hf") else "aiohttp")
    with pytest.raises(AltogetherError, match=r"cannot be written to .*; name a folder, or a URL"):
        open_store(url).create("_run.json", b"{}")
