"""Finds the shards that paths, folders, patterns and URLs name."""

from __future__ import annotations

import glob
import itertools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alt_files.beside import METADATA_NAMES
from altogether_rt.data.shards.base import Shard
from altogether_rt.data.shards.braces import expand_braces
from altogether_rt.data.shards.expected import local_expected
from altogether_rt.data.shards.options import Layout, ShardOptions
from altogether_rt.data.shards.storage import (
    etag_of,
    file_system,
    is_url,
    local_path,
    retried,
    storage_errors,
)
from altogether_rt.data.shards.stores.captions import captions_among
from altogether_rt.data.shards.stores.web import is_web, web_info
from altogether_rt.data.sniff import has_image_suffix
from altogether_rt.data.sources.scan import is_litter
from altogether_rt.errors import AltogetherError

__all__ = ["PARQUET_SUFFIX", "TAR_SUFFIXES", "is_sharded", "list_shards", "natural_key"]

TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd")
PARQUET_SUFFIX: Final = ".parquet"
_GLOB: Final = re.compile(r"[*?\[]")
_DIGITS: Final = re.compile(r"(\d+)")
#: Files of a web server that are asked for at once.
_MAX_PROBES: Final = 16
#: What a name of an output may not have, wherever it is written.
_UNSAFE: Final = re.compile(r"[^\w.=+,@ ()\-]|^\.+|[. ]+$")


@dataclass(frozen=True)
class _Found:
    """A file, or a folder that is a shard."""

    url: str
    size: int | None = None
    etag: str | None = None
    is_folder: bool = False


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in names by their value: `9.tar` before `10.tar`."""
    parts = _DIGITS.split(name)
    return [(1, int(p), p) if i % 2 else (0, 0, p) for i, p in enumerate(parts)]


def is_sharded(inputs: Sequence[str], layout: Layout = "auto") -> bool:
    """Whether inputs are shards, and not a folder of images or one image.

    A folder is one of shards if it holds tars or Parquet files and no images; a URL, a pattern or
    several inputs are always shards, and a `layout` says so itself. Raises AltogetherError for
    images or folders of images where there can only be shards.
    """
    if layout != "auto":
        return True
    if len(inputs) != 1 or is_url(inputs[0]):
        for text in inputs:
            _refuse_images(text, several=len(inputs) > 1)
        return True
    path = local_path(inputs[0]) or ""
    if not os.path.isdir(path):
        is_pattern = not os.path.exists(path) and bool(_GLOB.search(path) or "{" in path)
        if is_pattern:
            _refuse_images(path, several=True)
        return is_pattern or _kind_of(path) is not None
    found = False
    for is_shard in _images_and_shards(path):
        if not is_shard:
            return False
        found = True
    return found


def _refuse_images(text: str, *, several: bool) -> None:
    """Raise AltogetherError if an input that must be shards names an image, or a folder of some."""
    path = local_path(text)
    if path is not None and os.path.isdir(path):
        found = list(itertools.islice(_images_and_shards(path), 1000))
        if found and not any(found):
            raise AltogetherError(
                f"{text} is a folder of images, and only shards can be several: caption one folder "
                "at a time, each with an --out of its own, or the folder that all of them are in."
            )
    elif has_image_suffix(text.partition("?")[0] if path is None else text):
        raise AltogetherError(
            f"{text} is an image, and only shards can be several: give the folder of the images, "
            "or one image at a time."
            if several
            else f"{text} is an image elsewhere: fetch it, and give the file or its folder."
        )


def _images_and_shards(folder: str) -> Iterator[bool]:
    """For each image and each shard in a folder: whether it is a shard."""
    for file in _walk(folder):
        name = os.path.basename(file)
        if has_image_suffix(name):
            yield False
        elif _kind_of(name) is not None and name not in METADATA_NAMES:
            yield True


def list_shards(inputs: Sequence[str], options: ShardOptions | None = None) -> list[Shard]:
    """The shards that the inputs name, each once, in natural order of their names.

    inputs: paths, folders, patterns (`*`, `**`, `{00000..00123}`), and URLs of them that fsspec
    knows. Raises AltogetherError if one cannot be read or there are no shards.
    """
    layout = (options or ShardOptions()).layout
    found: dict[str, _Found] = {}
    for text in inputs:
        for file in _find(text, layout):
            found.setdefault(file.url, file)
    if not found:
        raise AltogetherError(
            f"there are no shards in {', '.join(inputs)}: tars ({', '.join(TAR_SUFFIXES)}) or "
            "Parquet files are wanted."
        )
    files = list(found.values())
    names = _names(files)
    order = sorted(range(len(files)), key=lambda index: natural_key(names[index]))
    return [_shard(names[index], files[index]) for index in order]


def _shard(name: str, file: _Found) -> Shard:
    path = local_path(file.url)
    size, etag = file.size, file.etag
    if path is not None and not file.is_folder:
        status = os.stat(path)
        size, etag = status.st_size, f"{status.st_size}-{status.st_mtime_ns}"
    expected = None if path is None else local_expected(path)
    return Shard(name, file.url, size, etag, expected)


# -- finding


def _find(text: str, layout: Layout) -> Iterator[_Found]:
    if is_url(text):
        yield from _find_remote(text, layout)
        return
    path = local_path(text) or text
    for one in [path] if os.path.lexists(path) else expand_braces(path):
        if os.path.isdir(one):
            yield from _in_folder(one, layout)
        elif os.path.exists(one):
            yield _Found(one)
        elif _GLOB.search(one):
            for match in sorted(glob.glob(one, recursive=True)):
                yield from _find(match, layout)
        else:
            raise AltogetherError(f"there is no {one}.")


def _in_folder(folder: str, layout: Layout) -> list[_Found]:
    if layout in ("files", "imagefolder"):
        return [_Found(path, is_folder=True) for path in _image_folders(folder, layout)]
    return _chosen((_Found(file) for file in _walk(folder)), layout)


def _image_folders(folder: str, layout: Layout) -> Iterator[str]:
    """Folders that hold images themselves, or the file of their alt-texts."""
    folders: dict[str, None] = {}
    for file in _walk(folder):
        name = os.path.basename(file)
        if name in METADATA_NAMES if layout == "imagefolder" else has_image_suffix(name):
            folders[os.path.dirname(file)] = None
    return iter(folders)


def _walk(folder: str) -> Iterator[str]:
    """Files in a folder, in order of names, without hidden ones and what systems leave."""

    def failed(error: OSError) -> None:
        raise AltogetherError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for path, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith(".") and not is_litter(name):
                yield os.path.join(path, name)


def _find_remote(text: str, layout: Layout) -> Iterator[_Found]:
    if layout in ("files", "imagefolder"):
        raise AltogetherError(f"{text}: folders of images are read from a disk only; copy it.")
    if is_web(text):  # each file is a request, and a server may be far
        with ThreadPoolExecutor(_MAX_PROBES) as pool:
            yield from pool.map(_remote_web, expand_braces(text))
        return
    for url in expand_braces(text):
        fs, inner = file_system(url)
        with storage_errors(url):
            if _GLOB.search(inner):
                infos = retried(partial(fs.glob, inner, detail=True))
                matches = [_remote(fs, info) for info in infos.values()]
                yield from _chosen((m for m in matches if not m.is_folder), layout)
                continue
            info = retried(partial(fs.info, inner))
            if info.get("type") != "directory":
                yield _remote(fs, info)
                continue
            infos = retried(partial(fs.find, inner, detail=True))
            yield from _chosen((_remote(fs, info) for info in infos.values()), layout)


def _remote_web(url: str) -> _Found:
    if "*" in url.partition("?")[0]:
        raise AltogetherError(
            f"{url}: web servers do not list their files; write the numbers, as {{00000..00123}}."
        )
    with storage_errors(url):
        info = web_info(url)
    return _Found(url, info.get("size"), etag_of(info))


def _remote(fs: Any, info: dict[str, Any]) -> _Found:
    url = str(fs.unstrip_protocol(info["name"]))
    return _Found(url, info.get("size"), etag_of(info), info.get("type") == "directory")


def _kind_of(name: str) -> Layout | None:
    lower = name.lower()
    if lower.endswith(TAR_SUFFIXES):
        return "webdataset"
    return "parquet" if lower.endswith(PARQUET_SUFFIX) else None


def _chosen(files: Iterable[_Found], layout: Layout) -> list[_Found]:
    """The shards among files of a folder. With tars, Parquet files are their metadata."""
    by_kind: dict[Layout, list[_Found]] = {"webdataset": [], "parquet": []}
    files = list(files)
    captions = set(captions_among({file.url for file in files}))
    for file in files:
        kind = _kind_of(file.url)
        if kind is not None and file.url not in captions:
            by_kind[kind].append(file)
    if layout != "auto":
        return by_kind[layout]
    return by_kind["webdataset"] or by_kind["parquet"]


# -- names


def _names(files: Sequence[_Found]) -> list[str]:
    """A name for each: relative to the folder that all are in, safe as a path, and unique."""
    paths = [_split(file) for file in files]
    common = _num_common([parts[:-1] for parts in paths])
    names = [_safe(parts[common:]) for parts in paths]
    short = [_without_suffix(name) for name in names]
    counts = Counter(name.casefold() for name in short)
    result: list[str] = []
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last one that a repeated name was given
    for name, brief in zip(names, short, strict=True):
        unique = base = brief if counts[brief.casefold()] == 1 else name
        while unique.casefold() in taken:
            numbers[base] = numbers.get(base, 1) + 1
            unique = f"{base}-{numbers[base]}"
        taken.add(unique.casefold())
        result.append(unique)
    return result


def _num_common(paths: Sequence[list[str]]) -> int:
    """Number of first parts that all paths share."""
    first, last = min(paths), max(paths)
    pairs = zip(first, last, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _split(file: _Found) -> list[str]:
    path = local_path(file.url)
    if path is not None:
        return Path(os.path.abspath(path)).as_posix().split("/")
    protocol, _, rest = file.url.partition("://")
    return [protocol, *posixpath.normpath(rest.partition("?")[0]).split("/")]


def _safe(parts: Sequence[str]) -> str:
    return "/".join(_UNSAFE.sub("_", part) or "_" for part in parts)


def _without_suffix(name: str) -> str:
    lower = name.lower()
    for suffix in sorted((*TAR_SUFFIXES, PARQUET_SUFFIX), key=len, reverse=True):
        if lower.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
