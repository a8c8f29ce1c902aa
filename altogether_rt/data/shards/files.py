"""Folders whose files are samples: img2dataset's `files` format, Hugging Face's image folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from altogether_rt.data.alt_files.beside import METADATA_NAMES
from altogether_rt.data.alt_files.columns import image_name
from altogether_rt.data.alt_files.lines import FileNotes
from altogether_rt.data.alt_files.records import read_records
from altogether_rt.data.alts import Alts, make_alts
from altogether_rt.data.images import ImageLimits
from altogether_rt.data.images.files import open_file, reason_of
from altogether_rt.data.problems import Problems
from altogether_rt.data.shards.base import Ending, Shard, ShardSource
from altogether_rt.data.shards.options import ShardOptions
from altogether_rt.data.shards.samples.alt_texts import record_texts, value_at
from altogether_rt.data.shards.samples.grouping import Entry, SampleGroups
from altogether_rt.data.shards.samples.joined import JoinTable
from altogether_rt.data.shards.samples.members import MemberSource
from altogether_rt.data.sniff import SNIFF_BYTES, has_image_suffix
from altogether_rt.data.sources.base import Sample
from altogether_rt.data.sources.scan import is_litter
from altogether_rt.errors import AltogetherError, ImageError

__all__ = ["FilesSource", "ImageFolderSource"]


class FilesSource(MemberSource):
    """The samples of a folder: an image, and `.txt` and `.json` of the same name beside it."""

    def __init__(
        self,
        shard: Shard,
        folder: Path,
        options: ShardOptions | None = None,
        *,
        joined: JoinTable | None = None,
    ) -> None:
        super().__init__(shard, options or ShardOptions(), joined)
        self._folder = folder

    @property
    def ending(self) -> Ending:
        return Ending("whole")

    def _list(self, groups: SampleGroups) -> None:
        for name in _file_names(self._folder):
            groups.add(os.fsencode(name).decode("utf-8", "backslashreplace"), name, 0)

    def _image(self, name: str, entry: Entry) -> Path | bytes | ImageError:
        return self._folder / str(entry.where)

    def _peek(self, name: str, entry: Entry) -> bytes:
        try:
            with open_file(self._folder / entry.where, name, self._options.limits) as (file, _):
                return file.read(SNIFF_BYTES)
        except (ImageError, OSError):
            return b""

    def _read(self, name: str, entry: Entry, limit: int) -> bytes:
        limits = ImageLimits(max_bytes=limit)
        try:
            with open_file(self._folder / entry.where, name, limits) as (file, _):
                return file.read(limit)
        except OSError as error:
            raise ImageError("unreadable", f"{name} cannot be read: {reason_of(error)}.") from error
        except ImageError as error:
            if error.kind == "empty":
                return b""
            raise


class ImageFolderSource(ShardSource):
    """The images of a folder whose `metadata.jsonl` has their alt-texts.

    Subfolders with a metadata file of their own are shards of their own. A record whose file is not
    there is a sample without an image.
    """

    def __init__(
        self,
        shard: Shard,
        folder: Path,
        options: ShardOptions | None = None,
        *,
        joined: JoinTable | None = None,
    ) -> None:
        self.shard = shard
        self._folder = folder
        self._options = options or ShardOptions()
        self._joined = joined
        self._unusable = Problems()

    @property
    def ending(self) -> Ending:
        return Ending("whole")

    def unused(self) -> Mapping[str, Problems]:
        return {"alt_texts_unusable": self._unusable}

    def samples(self) -> Iterator[Sample]:
        return self.samples_where(lambda index, key: True)

    def samples_where(self, wanted: Callable[[int, str], bool]) -> Iterator[Sample]:
        self._unusable = Problems()
        records = self._records()
        names = list(_image_names(self._folder, ""))
        known = set(names)
        for index, name in enumerate([*names, *(name for name in records if name not in known)]):
            key = os.fsencode(name).decode("utf-8", "backslashreplace")
            if not wanted(index, key):
                continue
            record = records.get(name, {})
            values = {field: value_at(record, field) for field in self._options.read_fields}
            fields = {field: str(value) for field, value in values.items() if value is not None}
            image: Path | ImageError = self._folder / name
            if name not in known:
                image = ImageError("missing", f"{key} is in the metadata and not in the folder.")
            alts = self._alts(key, record, fields)
            yield Sample(key, alts, image, self._options.kept(fields))

    def _alts(self, key: str, record: Mapping[str, Any], fields: Mapping[str, str]) -> Alts:
        joined = {} if self._joined is None else self._joined.find(key, fields)
        try:
            if not self._options.alt_keys:
                return make_alts(dict.fromkeys(record_texts(joined or record)))
            texts: list[str] = []
            for alt in self._options.alt_keys:
                texts += record_texts(
                    {**record, **joined}, ".".join(filter(None, (alt.name, alt.path)))
                )
            return make_alts(dict.fromkeys(texts))
        except ValueError as error:
            self._unusable.add(f"{key} {error}")
            return Alts()

    def _records(self) -> dict[str, Mapping[str, Any]]:
        """Records of the folder's metadata by their files; the first of a file counts."""
        found: dict[str, Mapping[str, Any]] = {}
        for name in METADATA_NAMES:
            path = self._folder / name
            if not path.is_file():
                continue
            try:
                for where, record in read_records(path, self._unusable, FileNotes()):
                    file_name = image_name(record)
                    if file_name is None:
                        self._unusable.add(f"{name} {where}: no file_name")
                    else:
                        found.setdefault(os.path.normpath(file_name), record)
            except OSError as error:
                raise AltogetherError(f"{path} cannot be read: {reason_of(error)}.") from error
        return found


def _file_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.is_dir())
    except OSError as error:
        raise AltogetherError(f"{folder} cannot be read: {reason_of(error)}.") from error


def _image_names(root: Path, folder: str) -> Iterator[str]:
    """Images in a folder and in its subfolders, but for those with metadata of their own."""
    path = root / folder
    try:
        with os.scandir(path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {reason_of(error)}.") from error
    for entry in listed:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if is_litter(entry.name) or entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not any((root / name / other).is_file() for other in METADATA_NAMES):
                yield from _image_names(root, name)
        elif has_image_suffix(entry.name):
            yield name
