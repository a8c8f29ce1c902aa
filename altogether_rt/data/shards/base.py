"""The contract of a sharded dataset: shards that are read independently of each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from altogether_rt.data.sources.base import Sample, Source

__all__ = ["Ending", "EndingKind", "Shard", "ShardSource"]

EndingKind = Literal["whole", "unmarked", "truncated", "damaged", "appended"]


@dataclass(frozen=True)
class Shard:
    """A file of samples. It is sent to other processes, so it names the file and holds no data."""

    name: str  # names its outputs, "train/00003": unique in the dataset, relative, without `..`
    url: str  # a local path, or a URL that fsspec opens
    num_bytes: int | None = None
    etag: str | None = None  # changes with the content: an object store's, or size and time
    num_expected: int | None = None  # samples, where a file beside the shard says so


@dataclass(frozen=True)
class Ending:
    """How a shard ended, known once its samples are read."""

    kind: EndingKind
    offset: int | None = None  # byte at which it is damaged or cut
    message: str = ""  # a sentence, unless the shard is whole

    @property
    def is_complete(self) -> bool:
        """Whether every sample that was written has been seen, as far as the file can tell."""
        return self.kind in ("whole", "unmarked", "appended")


class ShardSource(Source):
    """The samples of one shard, in the order of the file.

    Every sample of the file is yielded: where its image is missing, unusable or given twice,
    `Sample.image` is the ImageError that its row will carry. Nothing is left out in silence.
    """

    shard: Shard  # with what was found out while opening it

    @property
    def num_shards(self) -> int:
        return 1

    def part(self, rank: int, num_parts: int) -> Source:
        raise NotImplementedError("A shard is read as a whole.")

    def samples_where(self, wanted: Callable[[int, str], bool]) -> Iterator[Sample]:
        """Those samples for whose index and key `wanted` is true; no other image is read.

        It is asked for each sample of the shard, in order: the row to go on from, a share of
        the samples, rows to try again.
        """
        for index, sample in enumerate(self.samples()):
            if wanted(index, sample.key):
                yield sample

    @property
    @abstractmethod
    def ending(self) -> Ending:
        """How the file ended; call it once `samples` is exhausted."""
