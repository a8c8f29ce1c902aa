"""Shards to test with, and an object store on this machine that they can lie on."""

from __future__ import annotations

import io
import json
import logging
import resource
import secrets
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

__all__ = [
    "Member",
    "no_file_larger",
    "object_store",
    "png",
    "s3_server",
    "tar_bytes",
    "webdataset_shard",
    "write_tar",
    "write_webdataset",
]

#: A member: a name with its content, or a header of any kind with it.
Member = tuple[str | tarfile.TarInfo, bytes]


@cache
def png(number: int = 0, side: int = 16) -> bytes:
    """A small image, another one for each number."""
    image = Image.new("RGB", (side, side), (number * 37 % 256, number * 91 % 256, number % 256))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def tar_bytes(members: Iterable[Member], *, tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def write_tar(path: Path, members: Iterable[Member]) -> Path:
    """Write a tar of these members."""
    path.write_bytes(tar_bytes(members))
    return path


def webdataset_shard(num_samples: int, first: int = 0) -> list[Member]:
    """Members of samples as img2dataset writes them: image, text and JSON."""
    members: list[Member] = []
    for number in range(first, first + num_samples):
        key = f"{number:09}"
        record = {"key": key, "caption": f"alt {number}", "url": f"https://example.org/{number}"}
        members += [
            (f"{key}.png", png(number)),
            (f"{key}.txt", f"alt {number}".encode()),
            (f"{key}.json", json.dumps(record).encode()),
        ]
    return members


def write_webdataset(folder: Path, num_shards: int, num_samples: int) -> Path:
    """A folder of img2dataset's tars, `00000.tar`, …, each with its `_stats.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        members = webdataset_shard(num_samples, first=shard * num_samples)
        write_tar(folder / f"{shard:05}.tar", members)
        stats = {"count": num_samples, "successes": num_samples, "failed_to_download": 0}
        (folder / f"{shard:05}_stats.json").write_text(json.dumps(stats))
    return folder


@contextmanager
def no_file_larger(num_bytes: int) -> Iterator[None]:
    """Files of this process cannot grow beyond this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # or it logs each request
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def object_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, `s3://…`, which processes that a test starts find as well."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{secrets.token_hex(4)}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}"
