"""Which column, or key of a record, holds the image's file name and which its alt-texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

__all__ = ["ALT_KEYS", "NAME_KEYS", "TEXT_KEYS", "Columns", "find_key", "image_name"]

#: Keys of the file name, in order of preference.
NAME_KEYS: Final = (
    *("file_name", "filename", "file", "image", "image_path", "file_path", "path", "image_name"),
    *("image_file", "img", "img_path", "name", "key", "id"),
)
#: Keys of alt-texts in any file, in order of preference.
TEXT_KEYS: Final = ("alt", "alts", "text", "alt_text", "alt_texts", "texts")
#: In a file given as alt-texts, these hold them too. In others, `caption` is what is learnt.
ALT_KEYS: Final = (*TEXT_KEYS, "caption", "captions", "description", "title", "label")


@dataclass(frozen=True)
class Columns:
    """Columns named by the user; None: found by their usual names."""

    name: str | None = None  # --image-key
    text: str | None = None  # --alt-key


@lru_cache(maxsize=256)
def _found(keys: tuple[Any, ...], wanted: tuple[str, ...]) -> Any:
    for key in wanted:
        if key in keys:
            return key
    plain = {_plain(key): key for key in reversed(keys) if isinstance(key, str)}
    return next((plain[_plain(key)] for key in wanted if _plain(key) in plain), None)


def find_key(keys: Iterable[Any], wanted: tuple[str, ...]) -> Any:
    """The first of `wanted` that is in `keys`, else the first in other spelling ("Alt Text")."""
    return _found(tuple(keys), wanted)


def _plain(key: str) -> str:
    return re.sub(r"[\s_\-]+", "", key).lower()


def image_name(record: Mapping[Any, Any], key: str | None = None) -> str | None:
    """The file name in a record, or None. An image object (Hugging Face's) has it as `path`."""
    found = key if key is not None else find_key(record, NAME_KEYS)
    value = record.get(found)
    if isinstance(value, dict):
        value = value.get("path")
    return value if isinstance(value, str) and value else None
