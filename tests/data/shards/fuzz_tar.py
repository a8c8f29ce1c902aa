"""Mutated tars: no crash, every member accounted for, and all that is untouched is read.

`python -m tests.data.shards.fuzz_tar 100000` tries that many mutations; the suite tries some.
"""

from __future__ import annotations

import io
import random
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.tar import TarSource
from altogether_rt.errors import ImageError

__all__ = ["Made", "check", "make_tar", "mutate"]

_FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
_BLOCK = 512
_TYPE = 156
#: Fields of a header: offset and length.
_FIELDS = ((0, 100), (100, 8), (124, 12), (136, 12), (148, 8), (_TYPE, 1), (157, 100), (257, 8))


@dataclass
class Made:
    """A tar, and where each of its images is."""

    raw: bytes
    images: dict[str, tuple[int, int, bytes]]  # key -> (start of headers, end of padding, content)


def make_tar(rng: random.Random) -> Made:
    """A small tar of samples; contents are random bytes, which hold no header."""
    tar_format = rng.choice(_FORMATS)
    images: dict[str, tuple[int, int, bytes]] = {}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for number in range(rng.randint(1, 8)):
            key = f"{'long/' * rng.choice((0, 0, 15, 30))}{number:05}"
            if tar_format == tarfile.USTAR_FORMAT:
                key = key[-60:]
            for suffix in rng.sample(["jpg", "txt", "json"], rng.randint(1, 3)):
                content = rng.randbytes(rng.choice((0, 1, 511, 512, 513, rng.randint(1, 3000))))
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                if tar_format == tarfile.PAX_FORMAT and rng.random() < 0.3:
                    info.pax_headers = {"comment": "x" * rng.randint(1, 600)}
                start = file.tell()
                tar.addfile(info, io.BytesIO(content))
                if suffix == "jpg":
                    images[key] = (start, file.tell(), content)
    return Made(file.getvalue(), images)


def mutate(rng: random.Random, made: Made) -> tuple[bytes, set[str]]:
    """The tar with one change, and the keys of the images that it does not touch."""
    raw = bytearray(made.raw)
    at = rng.randrange(len(raw))
    low, high = at, at + 1  # bytes of the original that are not what they were
    match rng.randint(0, 7):
        case 0:  # a byte
            raw[at] ^= rng.randint(1, 255)
        case 1:  # a run of bytes
            high = min(len(raw), at + rng.randint(1, 2000))
            raw[low:high] = rng.randbytes(high - low)
        case 2:  # zeros, as of a page that was never written
            high = min(len(raw), at + rng.choice((512, 1024, 4096)))
            raw[low:high] = bytes(high - low)
        case 3:  # lost
            high = min(len(raw), at + rng.randint(1, 1500))
            del raw[low:high]
        case 4:  # added
            raw[at:at] = rng.randbytes(rng.randint(1, 1500))
        case 5:  # cut off
            high = len(made.raw)
            del raw[at:]
        case 6:  # a field of a header, with a sum that is right
            low, high = _mutate_header(rng, raw)
        case 7:  # another tar behind, perhaps cut
            low = high = len(raw)
            other = made.raw
            raw += other[: rng.choice((len(other), rng.randrange(len(other))))]
    kept = {
        key for key, (start, end, _) in made.images.items() if end <= low or start >= max(high, low)
    }
    return bytes(raw), kept


def _mutate_header(rng: random.Random, raw: bytearray) -> tuple[int, int]:
    """Change a header as no accident does, its sum included."""
    headers = [
        at for at in range(0, len(raw) - _BLOCK, _BLOCK) if raw[at + 257 : at + 262] == b"ustar"
    ]
    if not headers:
        return 0, len(raw)
    at = rng.choice(headers)
    start, length = rng.choice(_FIELDS)
    value = rng.choice(
        (rng.randbytes(length), bytes(length), b"7" * length, b"\xff" * length, b"\x80" + bytes(11))
    )
    raw[at + start : at + start + length] = (value + bytes(length))[:length]
    header = bytes(raw[at : at + 148]) + b" " * 8 + bytes(raw[at + 156 : at + _BLOCK])
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(header)
    # Of another type, it may be the name, or the defaults, of those that follow.
    return at, len(raw) if start == _TYPE else at + 1


def check(path: Path, raw: bytes, made: Made, kept: set[str]) -> str:
    """Read it; raises AssertionError if something is wrong. Returns how it ended."""
    path.write_bytes(raw)
    source = TarSource(Shard("shard", str(path)), path)
    samples = list(source.samples())
    by_key = {sample.key: sample for sample in samples}
    assert len(by_key) == len(samples), "keys are unique"
    for sample in samples:
        assert isinstance(sample.image, (bytes, ImageError))
        sample.key.encode("utf-8")
    for key in kept:
        assert key in by_key, f"{key} is lost"
        image = by_key[key].image
        assert image == made.images[key][2], f"{key}: {image!r:.200}"
    ending = source.ending
    assert ending.kind == "whole" or ending.message, ending
    if len(raw) < len(made.raw) - 10240:
        assert ending.kind != "whole", "a tar that lost more than its padding is not whole"
    return ending.kind


def run(num_mutations: int, seed: int = 0) -> dict[str, int]:
    """Try so many mutations; endings by how often they were."""
    endings: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.tar"
        for number in range(num_mutations):
            rng = random.Random(seed * 1_000_003 + number)
            made = make_tar(rng)
            raw, kept = mutate(rng, made)
            try:
                kind = check(path, raw, made, kept)
            except Exception as error:
                error.add_note(f"mutation {number} of seed {seed}")
                raise
            endings[kind] = endings.get(kind, 0) + 1
    return endings


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
