"""How shards are read: what the user may say about their layout, images and alt-texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from altogether_rt.data.images import ImageLimits
from altogether_rt.errors import AltogetherError

__all__ = [
    "LAYOUTS",
    "AltKey",
    "Join",
    "Layout",
    "ShardOptions",
    "parse_alt_keys",
    "parse_image_keys",
]

#: What a shard is. webdataset: a tar, MetaCLIP's trees among them. parquet: a file. files: a folder
#: of img2dataset's `files` format. imagefolder: a folder with Hugging Face's `metadata.jsonl`.
Layout = Literal["auto", "webdataset", "parquet", "files", "imagefolder"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


@dataclass(frozen=True)
class AltKey:
    """One of the things that `--alt-key` names: `txt`, `json:caption`, `alt`."""

    name: str  # suffix of a member, or a column
    path: str | None = None  # key in its JSON or struct; `a.b` is key b in the value of key a


@dataclass(frozen=True)
class Join:
    """A file of metadata whose records belong to samples: JSON lines, JSON, CSV, TSV, Parquet."""

    file: str  # a path or URL; `{shard}` in it stands for the shard's name
    on: str = "key"  # what both have: the sample's key, or `url`, `sha256`, `uid`, …

    def __post_init__(self) -> None:
        if not self.file.strip() or not self.on.strip():
            raise AltogetherError("--join and --join-on must not be empty.")


@dataclass(frozen=True)
class ShardOptions:
    """How the samples of a shard are read. It is sent to other processes."""

    layout: Layout = "auto"
    #: Suffixes of the image's member, or columns, in order of preference; none: the usual ones.
    image_keys: tuple[str, ...] = ()
    #: Where alt-texts are; all that are found count. None: the first of the usual ones with any.
    alt_keys: tuple[AltKey, ...] = ()
    limits: ImageLimits = field(default_factory=ImageLimits)
    join: Join | None = None
    #: Keys of the JSON, or columns, that come with each sample as `Sample.fields`.
    keep_fields: tuple[str, ...] = ()

    @property
    def read_fields(self) -> tuple[str, ...]:
        """`keep_fields`, and what is joined on."""
        on = () if self.join is None or self.join.on == "key" else (self.join.on,)
        return tuple(dict.fromkeys((*self.keep_fields, *on)))

    def kept(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Those of `fields` that come with a sample."""
        return {name: fields[name] for name in self.keep_fields if name in fields}


def parse_alt_keys(text: str | None) -> tuple[AltKey, ...]:
    """`txt;json:caption;alt` as its parts. Raises AltogetherError if one is empty."""
    keys = []
    for part in _parts(text, "--alt-key"):
        name, _, path = part.partition(":")
        if not name.strip() or (":" in part and not path.strip()):
            raise AltogetherError(
                f"--alt-key {text} has a part {part!r} without a name: write for example "
                "'txt;json:caption'."
            )
        keys.append(AltKey(name.strip().lower(), path.strip() or None))
    return tuple(keys)


def parse_image_keys(text: str | None) -> tuple[str, ...]:
    """`jpg;png` as its parts. Raises AltogetherError if one is empty."""
    return tuple(part.strip().lower().lstrip(".") for part in _parts(text, "--image-key"))


def _parts(text: str | None, option: str) -> list[str]:
    parts = [] if text is None else text.split(";")
    if any(not part.strip() for part in parts):
        raise AltogetherError(f"{option} {text!r} has an empty part: separate names by one `;`.")
    return parts
