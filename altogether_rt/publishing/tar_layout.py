"""The layout of WebDataset: the tars that were captioned, with the captions in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from altogether_rt.data.shards.base import Ending, Shard
from altogether_rt.data.shards.unpack import compression_of
from altogether_rt.mixing.captions import CaptionRecord
from altogether_rt.mixing.table import SampleTable
from altogether_rt.publishing.counts import ExportCounts
from altogether_rt.publishing.inputs import CaptionedShards
from altogether_rt.publishing.layouts import Layout
from altogether_rt.publishing.tars import IntoJson, IntoText, Placement, merge_tar

__all__ = ["TarLayout"]


@dataclass(frozen=True)
class TarLayout(Layout):
    """The shards themselves, with captions in them; always as plain tars."""

    shards: CaptionedShards
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
        return self.shards.stamp(shard)

    def input_of(self, shard: str) -> str | None:
        return self.shards.url(shard)

    def write(
        self, shard: str, records: Iterable[CaptionRecord], file: BinaryIO, counts: ExportCounts
    ) -> str | None:
        source = self.shards.find(shard)
        with SampleTable() as table:
            for record in records:
                counts.repeated += not table.add(record.key, record.alts, record.caption)
            with self._opened(source) as (tar, unpacking):
                ending = merge_tar(tar, file, table, self.placement, counts)
            counts.without_sample = sum(sample.caption is not None for sample in table)
        if ending.is_complete and unpacking is not None:
            ending = unpacking
        if ending.is_complete:
            return None
        counts.damaged += 1
        return f"{source.url}: {ending.message.rstrip('.')}"

    @contextmanager
    def _opened(self, shard: Shard) -> Iterator[tuple[BinaryIO, Ending | None]]:
        """A plain tar on this machine, and how its compressed form ended, if it has one."""
        with self.shards.spool.local(shard) as path:
            with path.open("rb") as file:
                is_packed = compression_of(file.read(8), shard.url) is not None
            if is_packed:
                with (
                    self.shards.spool.unpacked(path, shard.url) as (plain, ending),
                    plain.open("rb") as file,
                ):
                    yield file, ending
                return
            with path.open("rb") as file:
                yield file, None
