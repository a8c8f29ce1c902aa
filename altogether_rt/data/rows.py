"""Output rows, one for each input: writing them as JSON and reading them back."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

from altogether_rt.captions import Caption, CaptionParams
from altogether_rt.data.alts import Alts, clean_text
from altogether_rt.errors import ImageError
from altogether_rt.wording.checks import CaptionChecker

__all__ = [
    "MAX_ROW_BYTES",
    "Row",
    "RunStamp",
    "alt_notes",
    "as_row",
    "caption_fault",
    "caption_row",
    "encode_row",
    "error_row",
    "is_edited",
    "parse_row",
    "read_rows",
]

Row = Mapping[str, Any]

#: Maximum length of a line that may be a row: many times what alt-texts and captions can take.
MAX_ROW_BYTES: Final = 4 << 20

#: Characters that some readers take for a line end, that UTF-8 cannot represent, or that would move
#: a terminal's cursor or turn its text around. A row that contains one (a file name may) is written
#: in ASCII, which keeps its value.
_NEEDS_ASCII: Final = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class RunStamp:
    """What all captions of one output file have in common; a different stamp is another run."""

    bundle: str
    params: CaptionParams
    fast_jpeg: bool = False
    hygiene: tuple[str, ...] = ()  # what was done to alt-texts: `HygieneOptions.names`

    def fields(self) -> dict[str, Any]:
        decoding = {"fast_jpeg": True} if self.fast_jpeg else {}
        hygiene = {"hygiene": list(self.hygiene)} if self.hygiene else {}
        return {"bundle": self.bundle, "params": self.params.to_dict(), **decoding, **hygiene}


def caption_row(
    name: str,
    alts: Alts,
    caption: Caption,
    stamp: RunStamp,
    checker: CaptionChecker | None = None,
) -> Row:
    """checker: finds what stands in the row under `checks`; None: there is no such field."""
    text = clean_text(caption.text)
    checks: dict[str, Any] = {}
    if checker is not None:
        checks = {"checks": checker.check(text, alts.read, caption.finish_reason)}
    return {
        "file_name": name,
        "alt": alts.json,
        **alt_notes(alts),
        "caption": text,
        "finish_reason": caption.finish_reason,
        "tokens": caption.tokens,
        "alt_truncated": caption.alt_truncated or alts.truncated,
        **({"shortened": caption.shortened} if caption.shortened else {}),
        **stamp.fields(),
        "seed": caption.seed,
        **({"image_hash": caption.image_hash} if caption.image_hash else {}),
        **({"notes": list(caption.notes)} if caption.notes else {}),
        **checks,
    }


def is_edited(row: Row) -> bool:
    """Whether somebody has edited the caption, on a contact sheet."""
    return row.get("edited") is True and "caption" in row


def caption_fault(row: Row) -> str | None:
    """Why a caption is hardly one: `empty`, `loop` (ended because it repeats itself, or cut at the
    length limit while it does) or `same_as_alt`; None for all others.
    """
    words = row["caption"].split()
    if not words:
        return "empty"
    reason = row.get("finish_reason")
    if reason == "loop" or (reason == "length" and _repeats(words)):
        return "loop"
    alt = row.get("alt") or ""
    plain = _comparable(row["caption"])
    same = any(_comparable(text) == plain for text in ([alt] if isinstance(alt, str) else alt))
    return "same_as_alt" if same else None


def _repeats(words: list[str]) -> bool:
    """Whether the words end with three times the same, but for a part of another time."""
    for cut in range(min(8, len(words))):
        kept = words[: len(words) - cut]
        for size in range(max(1, cut), len(kept) // 3 + 1):
            last = kept[-size:]
            if kept[-3 * size :] == last * 3 and words[len(kept) :] == last[:cut]:
                return True
    return False


def _comparable(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!")


def error_row(name: str, alts: Alts, error: ImageError) -> Row:
    return {
        "file_name": name,
        "alt": alts.json,
        **alt_notes(alts),
        "error": {"class": error.kind, "message": str(error)},
        **({"image_hash": error.image_hash} if error.image_hash else {}),
    }


def alt_notes(alts: Alts) -> dict[str, Any]:
    """What the captioner read instead of the alt-texts, why, and their languages."""
    notes: dict[str, Any] = {}
    if alts.used is not None and alts.used != alts.texts:
        notes |= {"alt_used": list(alts.used), "alt_notes": list(alts.notes)}
    if alts.languages:
        notes["alt_language"] = list(alts.languages)
    return notes


def encode_row(row: Row) -> bytes:
    """The row as one line of JSON, with its line end."""
    text = json.dumps(row, ensure_ascii=False)
    if _NEEDS_ASCII.search(text):
        text = json.dumps(row)
    return text.encode("utf-8") + b"\n"


def parse_row(line: bytes) -> Row | None:
    """The row in a line, with or without its line end; None if the line is not a whole row."""
    try:
        return as_row(json.loads(line))
    except (ValueError, RecursionError):
        return None


def as_row(value: object) -> Row | None:
    """`value` if it is a row: a file's name with its caption or its error."""
    if not isinstance(value, dict) or not isinstance(value.get("file_name"), str):
        return None
    if isinstance(value.get("caption"), str):
        return value
    error = value.get("error")
    return value if isinstance(error, dict) and isinstance(error.get("class"), str) else None


def read_rows(file: BinaryIO) -> Iterator[tuple[int, Row | None, int]]:
    """(offset, row, bytes) of each line from the file's start; the row is None if it is not one.

    A line of any length takes little memory.
    """
    offset = 0
    while line := file.readline(MAX_ROW_BYTES):
        num_bytes = len(line)
        if num_bytes < MAX_ROW_BYTES or line.endswith(b"\n"):
            yield offset, parse_row(line), num_bytes
        else:
            while not line.endswith(b"\n") and (line := file.readline(MAX_ROW_BYTES)):
                num_bytes += len(line)
            yield offset, None, num_bytes
        offset += num_bytes
