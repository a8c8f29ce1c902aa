"""A stand-in source: images of tar files, their alt-texts in `.txt` members beside them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from altogether_rt.data.alts import Alts
from altogether_rt.data.problems import Problems
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.data.sources.base import Sample, Source


class TarSource(Source):
    """Shards are tar files; a sample's key is its member's name."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._others = Problems()
        self._order: dict[str, int] = {}

    @property
    def num_shards(self) -> int:
        return len(self._paths)

    def part(self, rank: int, num_parts: int) -> TarSource:
        return TarSource(*self._paths[rank::num_parts])

    def order_key(self, key: str) -> int:
        return self._order[key]

    def unused(self) -> Mapping[str, Problems]:
        return {"members_left_out": self._others}

    def samples(self) -> Iterator[Sample]:
        for path in self._paths:
            with tarfile.open(path) as tar:
                alts = {}
                for member in tar:
                    file = tar.extractfile(member)
                    content = b"" if file is None else file.read()
                    stem = member.name.rpartition(".")[0]
                    if member.name.endswith(".txt"):
                        alts[stem] = Alts((content.decode(),))
                    elif has_image_suffix(member.name):
                        self._order[member.name] = len(self._order)
                        yield Sample(member.name, alts.get(stem, Alts()), content)
                    else:
                        self._others.add(member.name)
