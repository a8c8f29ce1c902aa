"""Memory does not grow with a shard: ten gigabytes, a hundred thousand members, a large page."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.shards_fixtures import png

pytestmark = [pytest.mark.lean, pytest.mark.slow]

MAX_BYTES = 200_000_000

PROGRAM = """
import sys
from altogether_rt.bench.timing import peak_memory_bytes
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.tar import TarSource
from altogether_rt.data.shards.parquet import ParquetSource
kind = ParquetSource if sys.argv[1].endswith("parquet") else TarSource
source = kind(Shard("a", sys.argv[1]), sys.argv[1])
count = sum(isinstance(sample.image, bytes) for sample in source.samples())
print(count, source.ending.kind, peak_memory_bytes())
"""


def read(path: Path) -> tuple[int, str, int]:
    command = [sys.executable, "-c", PROGRAM, str(path)]
    count, kind, peak = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(count), kind, int(peak)


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def write_holes(path: Path, name: str) -> None:
    """Ten gigabytes of four members of that name, each a hole, each before an image."""
    size = 10 * (1 << 30) // 4
    with path.open("wb") as file:
        for number in range(4):
            file.write(header(name.format(number), size))
            file.seek(size, io.SEEK_CUR)
            file.write(header(f"b{number}.png", len(png())) + png().ljust(512, b"\0"))
        file.write(bytes(1024))


@pytest.mark.parametrize("name", ["a{}.npy", "a{}.jpg"])
def test_ten_gigabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    write_holes(path, name)
    assert path.stat().st_size > 10 * (1 << 30)
    count, kind, peak = read(path)
    assert (count, kind) == (4, "whole")
    assert peak < MAX_BYTES, f"{peak:,} bytes"


def test_many_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    content = png().ljust(512, b"\0")
    with path.open("wb") as file:
        for number in range(50_000):
            file.write(header(f"{number:09}.png", len(png())) + content)
            file.write(header(f"{number:09}.txt", 3) + b"alt".ljust(512, b"\0"))
        file.write(bytes(1024))
    count, kind, peak = read(path)
    assert (count, kind) == (50_000, "whole")
    assert peak < MAX_BYTES, f"{peak:,} bytes"


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_row_groups_in_one_page(tmp_path: Path, use_dictionary: bool) -> None:
    """As pyarrow writes up to 1,024 rows. Read by pyarrow, this peaks at 500 MB."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    blob = random.Random(0).randbytes(1 << 20)
    images = [blob[number:] + blob[:number] for number in range(200)]
    parquet.write_table(pyarrow.table({"image": images}), path, use_dictionary=use_dictionary)
    count, kind, peak = read(path)
    assert (count, kind) == (200, "whole")
    assert peak < MAX_BYTES, f"{peak:,} bytes"
