"""Memory does not grow with a tar: ten gigabytes, a hundred thousand members."""

from __future__ import annotations

import io
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
source = TarSource(Shard("a", sys.argv[1]), sys.argv[1])
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
