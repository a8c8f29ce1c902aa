"""Alt-texts of a sample, wherever its shard keeps them: text members, JSON, columns."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from altogether_rt.data.alt_files.columns import ALT_KEYS, find_key
from altogether_rt.data.problems import Problems

__all__ = ["TEXT_SUFFIXES", "TextNotes", "decode_text", "parse_json", "record_texts", "value_at"]

#: Members that hold one alt-text, in order of preference.
TEXT_SUFFIXES: Final = ("txt", "text", "alt", "caption", "cap")


class TextNotes:
    """What was found about the texts of a shard, counted."""

    def __init__(self) -> None:
        self.unusable = Problems()  # texts that are not used, and why
        self.windows_1252 = Problems()  # texts that were read as such
        self.replaced = Problems()  # texts of no known encoding, with replacement characters


def decode_text(raw: bytes, name: str, notes: TextNotes) -> str:
    """A text in UTF-8 or UTF-16, or, where it can be that, in Windows-1252.

    Bytes of no known encoding become replacement characters; `notes` counts both.
    """
    try:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            return raw.decode("utf-16")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        # Some UTF-8 in the text means that it is UTF-8 with a fault.
        if raw.decode("utf-8", "ignore").isascii():
            text = raw.decode("cp1252")
            notes.windows_1252.add(name)
            return text
    except UnicodeDecodeError:
        pass
    notes.replaced.add(name)
    return raw.decode("utf-8", "replace")


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text. Raises ValueError, which says what it is not."""
    try:
        return json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    except ValueError as error:
        raise ValueError("is not JSON in UTF-8") from error


def value_at(record: Any, path: str) -> Any:
    """The value of key `path` of a record or, failing that, of key b of key a for `a.b`."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    first, dot, rest = path.partition(".")
    if not dot or not isinstance(record, Mapping) or first not in record:
        return None
    inner = record[first]
    if isinstance(inner, list):
        return [value_at(part, rest) for part in inner]
    return value_at(inner, rest)


def record_texts(record: Any, path: str | None = None) -> list[str]:
    """The texts in a record (a JSON value, a Parquet cell) at `path`, or at the usual keys.

    Texts, lists of texts, and records with texts, nested at will; null and NaN are no texts.
    Raises ValueError, which says what the value is instead.
    """
    if path is not None:
        return _flat(value_at(record, path), path)
    if not isinstance(record, Mapping):
        return _flat(record, "the value")
    key = find_key(record, ALT_KEYS)
    return [] if key is None else _flat(record[key], str(key))


def _flat(value: Any, key: str, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return [value]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if depth < 8:
        if isinstance(value, Mapping):
            found = find_key(value, ALT_KEYS)
            if found is not None:
                return _flat(value[found], str(found), depth + 1)
        elif isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
            parts = list(value)
            tagged = _tagged(parts, may_be_pairs=key == "texts")
            if tagged is not None:
                return tagged
            return [text for part in parts for text in _flat(part, key, depth + 1)]
    raise ValueError(f"has no texts at {key}")


def _tagged(parts: list[Any], *, may_be_pairs: bool) -> list[str] | None:
    """Texts of MetaCLIP's `[[tag, text], …]` and Meta CLIP 2's `[[text, language, ids], …]`."""
    texts = []
    for part in parts:
        match part:
            case [str(text), str() | None, list()]:
                texts.append(text)
            case [str(), str(text)] if may_be_pairs:
                texts.append(text)
            case _:
                return None
    return texts
