"""The contract of a source: samples to caption, in an order that does not change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altogether_rt.data.alts import Alts
from altogether_rt.data.problems import Problems
from altogether_rt.errors import ImageError

__all__ = ["Sample", "Source"]


@dataclass(frozen=True)
class Sample:
    """One image to caption, with its alt-texts. It is sent to other processes, so keep it small."""

    key: str  # names its row; unique within the source
    alts: Alts
    #: The file, or its bytes, opened under the same limits; or why there is no image to open.
    image: Path | bytes | ImageError
    #: Other metadata that was asked for: its URL, its sha256, …
    fields: Mapping[str, str] = field(default_factory=dict)


class Source(ABC):
    """Samples from a folder, from tar or Parquet shards, from requests over HTTP.

    Opening a source is quick; whatever it cannot use, it counts in `unused` and leaves out.
    """

    #: Whether samples arrive over time. Captions then go on while none is ready.
    live: bool = False

    #: The folder that keys are relative to, where images are files of one; sidecars go there.
    root: Path | None = None

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """Every sample once, in the same order each time (a live source: as they arrive)."""

    @property
    @abstractmethod
    def num_shards(self) -> int:
        """Number of shards: the units in which the source can be divided."""

    @abstractmethod
    def part(self, rank: int, num_parts: int) -> Source:
        """Shards `rank`, `rank + num_parts`, … as a source; all parts together are the whole."""

    def order_key(self, key: str) -> Any:
        """Sorts keys in the order of `samples`."""
        return key

    def num_samples(self, without: Container[str] = ()) -> int | None:
        """Number of samples whose key is not in `without`; None where counting means reading."""
        return None

    def has_sample(self, key: str) -> bool:
        """False if it is known, without reading, that `samples` does not yield `key`."""
        return True

    def alts_of(self, key: str) -> Alts | None:
        """Alt-texts of a sample; None if there is no such sample, or finding out means reading."""
        return None

    def notes(self) -> list[str]:
        """What the user should know before waiting for captions, a sentence each."""
        return []

    def unused(self) -> Mapping[str, Problems]:
        """What could not be used, by the name under which the summary lists it."""
        return {}

    def figures(self) -> Mapping[str, int]:
        """Counts for the summary: images, other files, …"""
        return {}
