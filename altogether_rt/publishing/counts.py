"""What an export wrote, and what it could not."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

__all__ = ["ExportCounts"]


@dataclass
class ExportCounts:
    """Counts of a shard, or of all of them together."""

    rows: int = 0  # of the run
    captions: int = 0  # written
    failed: int = 0  # error rows
    missing: int = 0  # rows with neither caption nor error
    repeated: int = 0  # rows or samples whose key was there before
    unreadable: int = 0  # records that are no rows
    alts: int = 0  # texts that stay the alt-text, because the draw says so
    without_text: int = 0  # samples that get neither, so that a trainer leaves them out
    without_sample: int = 0  # captions whose sample is not in the shard
    without_row: int = 0  # samples of the shard that the run has no row for
    json_unusable: int = 0  # JSON members that are no objects, and stay as they are
    dotted_keys: int = 0  # captioned samples whose key webdataset cuts at a dot
    damaged: int = 0  # shards that could be read only in part

    def add(self, other: ExportCounts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)
