"""Reads captions from whatever wrote them: our rows, any JSON lines, MetaCLIP's JSON objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from altogether_rt.data.alts import alt_texts, iter_json_lines
from altogether_rt.data.problems import Problems
from altogether_rt.errors import AltogetherError

__all__ = ["CaptionRecord", "iter_captions", "read_caption_object", "shard_paths"]

#: Bytes of one JSON object, which must be parsed whole.
_MAX_OBJECT_BYTES: Final = 512 * 1024 * 1024

#: Under which the public Altogether code writes a caption: `{uuid: {"altogether": text}}`.
_NESTED_KEY: Final = "altogether"


@dataclass(frozen=True)
class CaptionRecord:
    """One image's caption, None where there is none, and the alt-texts that stand beside it."""

    key: str
    caption: str | None
    alts: tuple[str, ...] = ()
    failed: bool = False  # an error row: the image could not be captioned


def iter_captions(path: Path, problems: Problems) -> Iterator[CaptionRecord]:
    """Every record of a file or of a folder of shards, in a stable order.

    `.json` holds `{name: caption}`, each caption plain or nested as MetaCLIP's Altogether code
    writes it; anything else is read as JSON lines of `file_name`, `caption` or `error`, and `alt`.
    What cannot be read goes to `problems`. Raises AltogetherError if nothing can.
    """
    if path.is_dir():
        for shard in shard_paths(path):
            for key, caption in read_caption_object(shard, problems).items():
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


def read_caption_object(path: Path, problems: Problems) -> dict[str, str | None]:
    """name -> caption, None for one that is null or another model's. Raises AltogetherError."""
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
        with path.open("rb") as file:
            for where, row in iter_json_lines(file, problems):
                record = _record(row, where, problems)
                if record is not None:
                    yield record
    except FileNotFoundError as error:
        raise AltogetherError(f"there is no file of captions {path}.") from error
    except OSError as error:
        raise AltogetherError(f"{path} cannot be read: {error.strerror}.") from error


def _record(row: Mapping[Any, Any], where: str, problems: Problems) -> CaptionRecord | None:
    key, caption = row.get("file_name"), row.get("caption")
    if not isinstance(key, str) or not key:
        problems.add(f"{where}: no file_name")
        return None
    failed = "error" in row and caption is None
    missing = failed or ("caption" in row and caption is None)
    if not missing and not isinstance(caption, str):
        problems.add(f"{where}: no caption")
        return None
    told = {name for name in ("alt", "alts") if name in row}
    alts = alt_texts(row, where, problems) if told else []
    return CaptionRecord(key, caption, tuple(alts or ()), failed)
