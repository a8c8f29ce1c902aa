"""Reads captions: rows of `caption`, of its shards, other JSON lines and tables, and MetaCLIP's
JSON objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alts import alt_texts, read_records
from altogether_rt.data.problems import Problems
from altogether_rt.data.sinks.shards.run_file import read_run
from altogether_rt.data.sinks.shards.store import LocalStore
from altogether_rt.data.sinks.shards.tables import run_tables
from altogether_rt.errors import AltogetherError

__all__ = [
    "CaptionRecord",
    "iter_captions",
    "read_caption_object",
    "shard_paths",
    "shard_tables",
]

#: Maximum bytes of a JSON object, which must be parsed as a whole.
_MAX_OBJECT_BYTES: Final = 512 * 1024 * 1024

#: The key of a caption in files of the public Altogether code: `{uuid: {"altogether": text}}`.
_NESTED_KEY: Final = "altogether"


@dataclass(frozen=True)
class CaptionRecord:
    """An image's caption, None if it is missing, and the alt-texts of the same record."""

    key: str
    caption: str | None
    alts: tuple[str, ...] = ()
    failed: bool = False  # the record is an error row
    fields: Mapping[Any, Any] = field(default_factory=dict, compare=False)  # all of the record


def iter_captions(path: Path, problems: Problems) -> Iterator[CaptionRecord]:
    """Every record of a file, or of a folder of shards, in a stable order.

    `.json` holds `{name: caption}`, each caption plain or nested as MetaCLIP's Altogether code
    writes it. JSON lines, `.csv`, `.tsv` and Parquet have `file_name` or `key`, `caption` or
    `error`, and `alt`; a sharded run is a folder of such Parquet files, whose keys are preceded by
    the name of their shard. Records that cannot be read go to `problems`. Raises AltogetherError
    if nothing can be read.
    """
    tables = shard_tables(path) if path.is_dir() else []
    if tables:
        for table in tables:
            shard = table.relative_to(path).with_suffix("").as_posix()
            for record in _rows(table, problems):
                yield replace(record, key=f"{shard}/{record.key}")
    elif path.is_dir():
        for file in shard_paths(path):
            for key, caption in read_caption_object(file, problems).items():
                yield CaptionRecord(key, caption)
    elif path.suffix.lower() == ".json":
        for key, caption in read_caption_object(path, problems).items():
            yield CaptionRecord(key, caption)
    else:
        yield from _rows(path, problems)


def shard_paths(folder: Path) -> list[Path]:
    """The JSON files of a folder, `7/107.json`, sorted. Raises AltogetherError if it has none."""
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise AltogetherError(f"{folder} has no .json files of captions.")
    return paths


def shard_tables(folder: Path) -> list[Path]:
    """The Parquet files of a sharded run that are complete, sorted; [] if it is not one.

    Raises AltogetherError for a run that has completed none.
    """
    store = LocalStore(folder)
    names = run_tables(store).names
    if not names and read_run(store) is not None:
        raise AltogetherError(f"{folder} has no finished shard of its run yet: caption them first.")
    return [folder / name for name in names]


def read_caption_object(path: Path, problems: Problems) -> dict[str, str | None]:
    """Captions by name; None if a caption is null or another model's.

    Raises AltogetherError if the file is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_OBJECT_BYTES + 1)
        if len(raw) > _MAX_OBJECT_BYTES:
            raise AltogetherError(f"{path} is too large for one JSON object: use JSON lines.")
        data = json.loads(raw.decode("utf-8-sig"))
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise AltogetherError(f"{path} is not a JSON file in UTF-8.") from error
    if not isinstance(data, dict):
        raise AltogetherError(f"{path} must hold a JSON object of captions by name.")
    captions: dict[str, str | None] = {}
    for key, value in data.items():
        caption = value.get(_NESTED_KEY) if isinstance(value, dict) else value
        if caption is not None and not isinstance(caption, str):
            problems.add(f"{path}: {key[:80]!r} has no text")
            caption = None
        captions[key] = caption
    return captions


def _rows(path: Path, problems: Problems) -> Iterator[CaptionRecord]:
    try:
        for where, row in read_records(path, problems):
            try:
                yield _record(row)
            except ValueError as error:
                problems.add(f"{where}: {error}")
    except FileNotFoundError as error:
        raise AltogetherError(f"there is no file of captions {path}.") from error
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error


def _record(row: Mapping[Any, Any]) -> CaptionRecord:
    """Raises ValueError with the reason if the row is not a caption of an image."""
    key, caption = row.get("file_name", row.get("key")), row.get("caption")
    if not isinstance(key, str) or not key:
        raise ValueError("no file_name")
    if not isinstance(caption, str):
        if not _is_null(caption) or not {"caption", "error"} & row.keys():
            raise ValueError("no caption")
        caption = None
    failed = caption is None and not all(_is_null(row.get(k)) for k in ("error", "error_class"))
    return CaptionRecord(key, caption, alt_texts(row) or (), failed, row)


def _is_null(value: object) -> bool:
    return value is None or value != value  # NaN is how pandas writes null
