"""Which members of a shard belong to one sample, and what its key is.

WebDataset's rule, which open_clip shares: the key is the name up to the first dot of its last part,
the suffix is the rest. So `a/img.v1.jpg` has key `a/img` and suffix `v1.jpg`. Where this makes one
sample of several images, `img.v1.jpg` and `img.v2.jpg`, each image is a sample of its own and the
key goes to the last dot: `a/img.v1`, `a/img.v2`. A key that comes again is a duplicate, `a/img#2`.
Keys are texts: no path is ever made of one.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from sys import intern
from typing import Any, Final, NamedTuple

from altogether_rt.data.problems import Problems
from altogether_rt.data.sniff import IMAGE_SUFFIXES
from altogether_rt.data.sources.scan import is_litter

__all__ = ["Entry", "Parts", "SampleGroups", "split_name"]

#: Members that webdataset takes for its own, which are no samples: `__meta__`.
_META: Final = re.compile(r"__[^/]*__(?:$|/)")
#: Of several images of one key, open_clip's loader takes the first of these.
_PREFERRED: Final = ("jpg", "png", "jpeg", "webp")


class Entry(NamedTuple):
    """A member of a sample. Its name is the key that `split_name` gives and this suffix."""

    suffix: str | None  # as it is written, `v1.JPG`; None: the name has no dot
    where: Any  # what its container finds the content by
    size: int


@dataclass(slots=True)
class Parts:
    """The members of one sample."""

    key: str
    group: str  # WebDataset's key
    stem: str = ""  # what the suffixes of its own members begin with: `v1`
    image: Entry | None = None
    others: list[Entry] = field(default_factory=list)
    duplicate_of: str | None = None

    def name(self, entry: Entry) -> str:
        """A member's name."""
        return self.group if entry.suffix is None else f"{self.group}.{entry.suffix}"

    def texts(self) -> dict[str, Entry]:
        """Members but the image, by their lower-case suffixes within the sample: `txt`."""
        found: dict[str, Entry] = {}
        for entry in self.others:
            suffix = (entry.suffix or "").lower()
            found.setdefault(suffix, entry)
            if self.stem and suffix.startswith(self.stem + "."):
                found.setdefault(suffix[len(self.stem) + 1 :], entry)
        return found


def split_name(name: str) -> tuple[str, str | None]:
    """(key, suffix) of a member's name, by WebDataset's rule.

    A name without a dot, which webdataset leaves out, is a key without a suffix; dots that a file's
    name begins with belong to the key.
    """
    base = name.rfind("/") + 1
    start = base
    while start < len(name) and name[start] == ".":
        start += 1
    dot = name.find(".", start)
    return (name, None) if dot < 0 else (name[:dot], name[dot + 1 :])


@lru_cache(maxsize=4096)
def _is_image(suffix: str | None) -> bool:
    return suffix is not None and "." + suffix.lower().rpartition(".")[2] in IMAGE_SUFFIXES


class SampleGroups:
    """Members by key, in the order in which the keys came; what is no sample is counted."""

    def __init__(self, image_keys: tuple[str, ...] = ()) -> None:
        """image_keys: suffixes that are the image's, in order of preference."""
        self._image_keys = image_keys
        self._groups: dict[str, list[Entry]] = {}
        self._last: list[Entry] | None = None
        self._apart: set[str] = set()
        self.litter = Problems()  # what systems leave in archives
        self.left_out = Problems()  # members that are no sample's
        self.apart = Problems()  # keys whose members do not stand together
        self.not_chosen = Problems()  # second images, of another format, of a key
        self.repeated = Problems()  # texts that a key has twice

    def add(self, name: str, where: Any, size: int) -> None:
        """A member, in the order of the shard."""
        if any(map(is_litter, name.split("/"))) if "/" in name else is_litter(name):
            self.litter.add(name)
            return
        if name.startswith("__") and _META.match(name):
            self.left_out.add(name)
            return
        key, suffix = split_name(name)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = []
        elif group is not self._last and key not in self._apart:
            self._apart.add(key)
            self.apart.add(key)
        group.append(Entry(intern(suffix) if suffix else suffix, where, size))
        self._last = group

    def find(self, name: str) -> Entry | None:
        """The first member of this name."""
        key, suffix = split_name(name)
        return next((e for e in self._groups.get(key, ()) if e.suffix == suffix), None)

    def samples(self) -> Iterator[Parts]:
        """Every sample, by its first member. One whose `image` is None has none by its names."""
        for key, entries in self._groups.items():
            if len({entry.suffix for entry in entries}) == len(entries):
                images = [entry for entry in entries if self._rank(entry) is not None]
                if len(images) == 1:  # nearly always
                    stem = _stem(images[0])
                    others = [entry for entry in entries if entry is not images[0]]
                    yield Parts(key, key, stem, images[0], others)
                    continue
            yield from self._untangled(key, entries)

    def _rank(self, entry: Entry) -> int | None:
        """The entry's preference as the image of its sample; None if it is none by its name."""
        suffix = (entry.suffix or "").lower()
        last = suffix.rpartition(".")[2]
        if self._image_keys:
            for rank, wanted in enumerate(self._image_keys):
                if wanted in (suffix, last):
                    return rank
            return None
        if not _is_image(entry.suffix):
            return None
        return _PREFERRED.index(last) if last in _PREFERRED else len(_PREFERRED)

    def _untangled(self, key: str, entries: list[Entry]) -> Iterator[Parts]:
        """The samples of a key of no image, several images, or members given twice."""
        by_stem: dict[str, list[Entry]] = defaultdict(list)
        others = []
        for entry in entries:
            if self._rank(entry) is None:
                others.append(entry)
            else:
                by_stem[self._sample_stem(entry)].append(entry)
        if not by_stem:
            yield Parts(key, key, others=self._once(key, others))
            return
        if len(by_stem) == 1:
            ((stem, images),) = by_stem.items()
            yield from self._same_stem(Parts(key, key, stem), images, others)
            return
        divided = _divided(others, by_stem)
        for stem, images in by_stem.items():
            sample_key = f"{key}.{stem}" if stem else key
            # In the order of the shard, for the first of two texts counts.
            mine = [entry for _, entry in heapq.merge(divided[stem], divided[None], key=_number)]
            yield from self._same_stem(Parts(sample_key, key, stem), images, mine)

    def _sample_stem(self, entry: Entry) -> str:
        """`v1` of `v1.jpg`, but nothing if the user named `v1.jpg` as the image's suffix."""
        return "" if (entry.suffix or "").lower() in self._image_keys else _stem(entry)

    def _same_stem(self, parts: Parts, images: list[Entry], others: list[Entry]) -> Iterator[Parts]:
        """One sample, and a duplicate for each time that its image comes again."""
        ranks = [self._rank(image) for image in images]
        best = min(rank for rank in ranks if rank is not None)
        first = images[ranks.index(best)]
        suffix = (first.suffix or "").lower()
        again = []
        for image in images:
            if image is first:
                continue
            if (image.suffix or "").lower() == suffix:
                again.append(image)
            else:
                self.not_chosen.add(parts.name(image))
        parts.image = first
        texts = _occurrences(others, 1 + len(again))
        for surplus in texts[1 + len(again) :]:
            for entry in surplus:
                self.repeated.add(parts.name(entry))
        parts.others = texts[0]
        yield parts
        number = 2
        for image, own in zip(again, texts[1:], strict=False):
            while f"{parts.key}#{number}" in self._groups:
                number += 1
            key = f"{parts.key}#{number}"
            yield Parts(key, parts.group, parts.stem, image, own, duplicate_of=parts.key)
            number += 1

    def _once(self, key: str, entries: list[Entry]) -> list[Entry]:
        first, *again = _occurrences(entries, 1)
        for entry in (entry for surplus in again for entry in surplus):
            self.repeated.add(f"{key}.{entry.suffix}")
        return first


def _stem(entry: Entry) -> str:
    return (entry.suffix or "").rpartition(".")[0].lower()


def _divided(
    entries: list[Entry], stems: Collection[str]
) -> dict[str | None, list[tuple[int, Entry]]]:
    """Members with their numbers, by the sample that they belong to: the longest stem that they
    begin with. Under None are those of all samples, which begin with none.

    A key may have as many stems as its shard has samples: `photo.00000.jpg`, `photo.00001.jpg`, …
    """
    divided: dict[str | None, list[tuple[int, Entry]]] = defaultdict(list)
    lengths = sorted({len(stem) for stem in stems if stem}, reverse=True)
    for number, entry in enumerate(entries):
        suffix = (entry.suffix or "").lower()
        begins = (suffix[:length] for length in lengths if suffix[length : length + 1] == ".")
        owner = next((start for start in begins if start in stems), None)
        divided[owner].append((number, entry))
    return divided


def _number(numbered: tuple[int, Entry]) -> int:
    return numbered[0]


def _occurrences(entries: list[Entry], at_least: int) -> list[list[Entry]]:
    """The entries divided by how often their suffix came before."""
    seen: dict[str, int] = defaultdict(int)
    result: list[list[Entry]] = [[] for _ in range(at_least)]
    for entry in entries:
        suffix = (entry.suffix or "").lower()
        index = seen[suffix]
        seen[suffix] += 1
        if index == len(result):
            result.append([])
        result[index].append(entry)
    return result
