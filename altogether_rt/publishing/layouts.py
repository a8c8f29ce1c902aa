"""The layouts of an export: what each writes for a shard, and under which name."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from altogether_rt.errors import AltogetherError
from altogether_rt.mixing.captions import CaptionRecord
from altogether_rt.mixing.formats import CaptionObject
from altogether_rt.publishing.counts import ExportCounts

__all__ = ["Layout", "MetaClipLayout"]


class Layout(ABC):
    """How captions are written. Shards are written independently of each other."""

    @abstractmethod
    def file_name(self, shard: str) -> str:
        """The file of a shard, relative to the output folder."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the content; files of other settings do not stand beside each other."""

    def stamp(self, shard: str) -> str | None:
        """What changes when something besides the captions changes that is read for a shard."""
        return None

    def input_of(self, shard: str) -> str | None:
        """The path or URL of what is read for a shard besides the captions, if anything is."""
        return None

    @abstractmethod
    def write(
        self, shard: str, records: Iterable[CaptionRecord], file: BinaryIO, counts: ExportCounts
    ) -> str | None:
        """Write a shard into an empty file; returns a sentence if only a part could be read."""


@dataclass(frozen=True)
class MetaClipLayout(Layout):
    """`{id % 100}/{id}.json`, one object of captions by uuid.

    Its training takes the caption itself for the text; its captioning code wrote it one level
    deeper, under "altogether".
    """

    form: Literal["plain", "nested"] = "plain"

    def file_name(self, shard: str) -> str:
        number = shard.rpartition("/")[2]
        if not (number.isascii() and number.isdigit()):
            raise AltogetherError(
                f"MetaCLIP's loader opens shards by their number, and {shard!r} is none: for one "
                "file of captions use `altogether-rt mix --format metaclip --ratio 1`."
            )
        return f"{int(number) % 100}/{int(number)}.json"

    def settings(self) -> dict[str, Any]:
        return {"format": "metaclip", "form": self.form}

    def write(
        self, shard: str, records: Iterable[CaptionRecord], file: BinaryIO, counts: ExportCounts
    ) -> str | None:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        captions = CaptionObject(text, "altogether" if self.form == "nested" else None)
        for record in records:
            if record.caption is not None:
                added = captions.write(record.key, record.caption)
                counts.captions += added
                counts.repeated += not added
        captions.end()
        text.detach()
        return None
