"""All hostile images, one after another and four at once, stay under a gigabyte."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.lean, pytest.mark.slow]

MAX_BYTES = 1_000_000_000

PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
from altogether_rt.data.images import ImageLimits, open_image
from altogether_rt.data.memory import PixelGate, free_large_images
from altogether_rt.bench.timing import peak_memory_bytes
from altogether_rt.errors import ImageError
free_large_images()
limits = ImageLimits()
gate = PixelGate(limits.max_pixels)
def read(path):
    try:
        with open_image(path, limits, gate) as image:
            return image.getpixel((0, 0))
    except ImageError as error:
        return error.kind
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    list(pool.map(read, sys.argv[2:] * 2))
print(peak_memory_bytes())
"""


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + crc


def png(width: int, height: int, *extra: bytes) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(width)) * height)
    parts = (chunk(b"IHDR", head), *extra, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(count: int) -> bytes:
    """A block whose Orientation has that many values."""
    entry = struct.pack("<HHII", 0x112, 4, count, 26) + bytes(4)
    return b"II*\0\x08\0\0\0\x01\0" + entry + b"\xff\xff\xff\x7f" * count


def riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def hostile(folder: Path) -> list[Path]:
    """Small images that would make decoders allocate much, and legal ones near the limits."""
    (folder / "exif.png").write_bytes(png(16, 16, chunk(b"eXIf", exif(15_000_000))))
    (folder / "thin.png").write_bytes(png(1, 49_000_000))
    (folder / "thin_legal.png").write_bytes(png(1, 6_000_000))
    (folder / "wide_legal.png").write_bytes(png(6_000_000, 1))
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1), (278, 16), (279, 256)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    offsets = struct.pack("<HHII", 273, 4, 4_000_000, 8)
    directory = struct.pack("<H", 9) + b"".join([*entries[:5], offsets, *entries[5:]]) + bytes(4)
    body = b"\xff\xff\xff\x7f" * 4_000_000
    start = b"II*\0" + struct.pack("<I", 8 + len(body))
    (folder / "offsets.tif").write_bytes(start + body + directory)
    small = Image.new("RGB", (16, 16))
    small.save(folder / "exif.webp", lossless=True, exif=exif(12_000_000))
    small.save(folder / "small.jpg")
    jpeg = (folder / "small.jpg").read_bytes()
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)
    (folder / "segments.jpg").write_bytes(jpeg[:2] + segment * 3000 + jpeg[2:])
    large = Image.radial_gradient("L").resize((7000, 7000)).convert("RGB")
    large.save(folder / "large.jpg", quality=60, progressive=True)
    large.convert("CMYK").save(folder / "cmyk.jpg", quality=60, progressive=True)
    large.save(folder / "large.tif", compression="tiff_lzw")
    large.putalpha(99)
    large.save(folder / "alpha.png", compress_level=1)
    (folder / "cut.jpg").write_bytes((folder / "large.jpg").read_bytes()[:-2])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    folder = tmp_path_factory.mktemp("hostile")
    yield hostile(folder)
    shutil.rmtree(folder)  # 324 MB


def peak_bytes(paths: list[Path], threads: int) -> int:
    command = [sys.executable, "-c", PROGRAM, str(threads), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("threads", [1, 4])
def test_hostile_images(paths: list[Path], threads: int) -> None:
    peak = peak_bytes(paths, threads)
    print(threads, f"{peak:,}")
    assert peak < MAX_BYTES


@pytest.mark.parametrize("threads", [1, 4])
def test_odd_files(paths: list[Path], shared_data: Path, threads: int) -> None:
    peak = peak_bytes([*paths, *sorted((shared_data / "odd").iterdir())], threads)
    print(threads, f"{peak:,}")
    assert peak < MAX_BYTES
