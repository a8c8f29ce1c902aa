"""What is read of a tar."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.shards.options import ShardOptions, parse_alt_keys, parse_image_keys
from altogether_rt.data.shards.tar import TarSource
from altogether_rt.data.sources.base import Sample
from altogether_rt.errors import ImageError
from tests.shards_fixtures import Member, tar_bytes

__all__ = ["Read", "Reader", "options", "read", "special"]


class Read:
    """What was read of a tar."""

    def __init__(self, path: Path, options: ShardOptions | None = None) -> None:
        self.source = TarSource(Shard("shard", str(path)), path, options)
        self.samples: list[Sample] = list(self.source.samples())
        self.keys = [sample.key for sample in self.samples]
        self.by_key = {sample.key: sample for sample in self.samples}
        assert len(self.by_key) == len(self.samples), "keys are unique"
        self.ending: Ending = self.source.ending

    def error(self, key: str) -> str:
        image = self.by_key[key].image
        return image.kind if isinstance(image, ImageError) else ""

    def alts(self, key: str) -> tuple[str, ...]:
        return self.by_key[key].alts.texts

    def unused(self, name: str) -> int:
        return self.source.unused()[name].count


class Reader:
    """Reads a tar of these bytes, or of these members."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(
        self, content: bytes | Sequence[Member], options: ShardOptions | None = None
    ) -> Read:
        raw = content if isinstance(content, bytes) else tar_bytes(content)
        self.path.write_bytes(raw)
        return Read(self.path, options)


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "shard.tar")


def options(alt: str | None = None, image: str | None = None) -> ShardOptions:
    return ShardOptions(image_keys=parse_image_keys(image), alt_keys=parse_alt_keys(alt))


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info
