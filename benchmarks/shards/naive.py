"""What one writes without a library: a loop over `tarfile`, a Parquet file a shard.

    python -m benchmarks.shards.naive IN OUT [--workers N] [--delay S] [--log FILE]

Shards whose file is there are skipped. With several workers, a ProcessPoolExecutor whose tasks are
shards. A sample that cannot be decoded is reported and left out; so is the rest of a tar that
cannot be read.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.shards.dummy import dummy_caption, thumbnail

__all__ = ["caption_shard", "decoded_captions", "main", "read_tar"]


def read_tar(path: Path) -> Iterator[tuple[str, bytes, str]]:
    """(key, image file, alt-text) of each sample, whose members stand together."""
    key, image, alt = "", None, ""
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            content = b"" if file is None else file.read()
            name, _, suffix = member.name.partition(".")
            if name != key and image is not None:
                yield key, image, alt
                image, alt = None, ""
            key = name
            if suffix == "png":
                image = content
            elif suffix == "txt":
                alt = content.decode()
    if image is not None:
        yield key, image, alt


def decoded_captions(
    path: Path, delay_s: float = 0.0, log: int | None = None
) -> Iterator[dict[str, str]]:
    """A row for each sample of a tar that can be read and decoded."""
    try:
        for key, content, alt in read_tar(path):
            try:
                image = Image.open(io.BytesIO(content)).convert("RGB")
            except OSError as error:
                print(f"{key}: {error}", file=sys.stderr)
                continue
            text = dummy_caption(alt, thumbnail(image))
            if delay_s:
                time.sleep(delay_s)
            if log is not None:
                os.write(log, f"{alt}\n".encode())
            yield {"key": key, "alt": alt, "caption": text}
    except tarfile.TarError as error:
        print(f"{path.name}: {error}", file=sys.stderr)


def caption_shard(path: Path, out: Path, delay_s: float = 0.0, log: Path | None = None) -> None:
    """Caption one tar into `out`, unless its file is there."""
    target = out / f"{path.stem}.parquet"
    if target.exists():
        return
    made = None if log is None else os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rows = list(decoded_captions(path, delay_s, made))
    columns = {name: [row[name] for row in rows] for name in ("key", "alt", "caption")}
    pq.write_table(pa.table(columns), target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    paths = sorted(given.inputs.glob("*.tar"))
    one = partial(caption_shard, out=given.out, delay_s=given.delay, log=given.log)
    if given.workers == 1:
        for path in paths:
            one(path)
        return
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(one, paths))


if __name__ == "__main__":
    main()
