"""The layout of WebDataset: the tars that were captioned, with the captions in them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from altogether_rt.data.alt_files.lines import open_plain
from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import CaptionRecord
from altogether_rt.mixing.table import SampleTable
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.layouts import Layout
from altogether_rt.publishing.storage import Storage
from altogether_rt.publishing.tars import IntoJson, IntoText, Placement, merge_tar

__all__ = ["TarLayout"]

#: Names under which the tar of a shard is looked for.
_TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst")


@dataclass(frozen=True)
class TarLayout(Layout):
    """The shards themselves, with captions in them."""

    shards: Storage
    placement: Placement

    def file_name(self, shard: str) -> str:
        return f"{shard}.tar"

    def settings(self) -> dict[str, Any]:
        where = self.placement
        if isinstance(where, IntoText):
            draw = {"ratio": where.draw.ratio, "seed": where.draw.seed, "epoch": where.epoch}
            return {"format": "webdataset", "into": "txt", **draw}
        assert isinstance(where, IntoJson)
        return {"format": "webdataset", "into": "json", "key": where.key}

    def stamp(self, shard: str) -> str | None:
        return self._find(shard)[1]

    def write(
        self, shard: str, records: Iterable[CaptionRecord], path: Path, counts: ExportCounts
    ) -> str | None:
        name, _ = self._find(shard)
        with SampleTable() as table:
            for record in records:
                counts.repeated += not table.add(record.key, record.alts, record.caption)
            with _opened(self.shards, name) as source, path.open("r+b") as target:
                damage = merge_tar(source, target, table, self.placement, counts)
            counts.without_sample = sum(sample.caption is not None for sample in table)
        if damage is None:
            return None
        return f"{self.shards.where}/{name} is {damage}: what stands before that is written."

    def _find(self, shard: str) -> tuple[str, str]:
        """The name and the stamp of a shard's tar. Raises AltogetherError if there is none."""
        for suffix in _TAR_SUFFIXES:
            stamp = self.shards.stamp(shard + suffix)
            if stamp is not None:
                return shard + suffix, stamp
        raise AltogetherError(
            f"there is no {shard}.tar in {self.shards.where}: name the folder of the shards that "
            "were captioned with --shards."
        )


@contextmanager
def _opened(shards: Storage, name: str) -> Iterator[BinaryIO]:
    """A tar file that can be read anywhere; a compressed one is unpacked to the disk first."""
    with shards.local(name) as path:
        if name.endswith(".tar"):
            with path.open("rb") as file:
                yield file
            return
        with open_plain(path) as packed, tempfile.TemporaryFile() as plain:
            shutil.copyfileobj(packed, plain, 1024 * 1024)
            yield plain
