"""The shards that were captioned, for layouts that hold more of them than the captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.listing import list_shards
from altogether_rt.data.shards.options import Layout, ShardOptions
from altogether_rt.data.shards.spool import Spool
from altogether_rt.errors import AltogetherError

__all__ = ["CaptionedShards", "find_shards"]


@dataclass(frozen=True)
class CaptionedShards:
    """Shards by the names that the run gave them, and where they are kept while they are read."""

    by_name: Mapping[str, Shard]
    spool: Spool
    options: ShardOptions = field(default_factory=ShardOptions)  # how the run read them

    def find(self, name: str) -> Shard:
        """Raises AltogetherError if there is none of this name."""
        shard = self.by_name.get(name)
        if shard is None:
            raise AltogetherError(
                f"there is no shard {name} among those of --shards: name what was captioned."
            )
        return shard

    def url(self, name: str) -> str | None:
        """The path or URL of a shard; None if there is none of this name."""
        shard = self.by_name.get(name)
        return None if shard is None else shard.url

    def stamp(self, name: str) -> str:
        """What changes when the shard's content changes."""
        shard = self.find(name)
        return f"{shard.num_bytes}-{shard.etag}"


def find_shards(
    where: str, spool: Spool, layout: Layout = "auto", image_keys: tuple[str, ...] = ()
) -> CaptionedShards:
    """The shards that a path, pattern or URL names.

    image_keys: those of the run, which decide what its samples are. Raises AltogetherError if there
    are no shards.
    """
    options = ShardOptions(layout=layout, image_keys=image_keys)
    found = list_shards([where], options)
    return CaptionedShards({shard.name: shard for shard in found}, spool, options)
