"""An S3 server on loopback (moto) behind a proxy that fails some of the requests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.jobs.shards.flaky import FlakyServer, flaky_server

__all__ = ["download", "flaky_bucket"]


@contextmanager
def flaky_bucket(inputs: Path, one_in: int) -> Iterator[tuple[str, dict[str, str], FlakyServer]]:
    """A bucket with the files of `inputs` under `in/`, the environment in which it is reached
    through a server that fails every `one_in`-th request, and that server."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    direct = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.update(direct)
    try:
        s3fs.S3FileSystem.clear_instance_cache()
        store = s3fs.S3FileSystem()
        store.mkdir("shards")
        for path in inputs.iterdir():
            store.put_file(str(path), f"shards/in/{path.name}")
        with flaky_server(direct["AWS_ENDPOINT_URL"], one_in) as flaky:
            through = f"http://127.0.0.1:{flaky.server_address[1]}"
            yield "s3://shards", {**os.environ, "AWS_ENDPOINT_URL": through}, flaky
    finally:
        server.stop()


def download(bucket: str, folder: str, out: Path) -> None:
    """Copy the Parquet files of a folder of the bucket, past the proxy."""
    import s3fs

    store = s3fs.S3FileSystem()
    for name in store.find(f"{bucket.removeprefix('s3://')}/{folder}"):
        if name.endswith(".parquet"):
            store.get_file(name, str(out / name.rpartition("/")[2]))
