"""The texts of all samples, kept on disk so that memory does not grow with their number."""

from __future__ import annotations

import json
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from altogether_rt.data.alts import MAX_ALT_CHARS, clean_text

__all__ = ["Sample", "SampleTable"]


@dataclass(frozen=True)
class Sample:
    """One image and its texts."""

    key: str  # its file name, or its uuid
    alts: tuple[str, ...]
    caption: str | None


class SampleTable:
    """Samples in the order in which they were added; a context manager.

    SQLite keeps them in a temporary file without a name, so that nothing is left on the disk,
    however the process ends. Texts are cleaned to one line; empty texts are dropped.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("")
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        # Keys are bytes: file names may contain what is not UTF-8.
        self._db.execute(
            "CREATE TABLE sample (number INTEGER PRIMARY KEY, key BLOB UNIQUE NOT NULL, "
            "alts TEXT NOT NULL, caption TEXT)"
        )

    def add(self, key: str, alts: Sequence[str], caption: str | None) -> bool:
        """Add a sample. Returns False and changes nothing if there is a sample with that key."""
        row = (_encode(key), _join((), alts), clean_text(caption or "") or None)
        done = self._db.execute(
            "INSERT OR IGNORE INTO sample (key, alts, caption) VALUES (?, ?, ?)", row
        )
        return done.rowcount == 1

    def add_alts(self, key: str, alts: Sequence[str]) -> bool:
        """Add alt-texts to a sample. If there is none with that key, add it and return True.

        A key in composed characters also finds the one in decomposed characters, as macOS writes
        file names, and the other way round.
        """
        forms = {key: None}
        if not key.isascii():
            forms |= {unicodedata.normalize("NFC", key): None}
            forms |= {unicodedata.normalize("NFD", key): None}
        for form in forms:
            found = self._db.execute(
                "SELECT number, alts FROM sample WHERE key = ?", (_encode(form),)
            ).fetchone()
            if found is not None:
                joined = _join(json.loads(found[1]), alts)
                self._db.execute("UPDATE sample SET alts = ? WHERE number = ?", (joined, found[0]))
                return False
        return self.add(key, alts, None)

    def num_with_alts(self, num_first: int) -> int:
        """How many of the first samples have alt-texts."""
        found = self._db.execute(
            "SELECT count(*) FROM sample WHERE number <= ? AND alts != '[]'", (num_first,)
        )
        count: int = found.fetchone()[0]
        return count

    def take(self, key: str) -> Sample | None:
        """The sample with that key, which is then no longer in the table."""
        found = self._db.execute(
            "SELECT number, alts, caption FROM sample WHERE key = ?", (_encode(key),)
        ).fetchone()
        if found is None:
            return None
        self._db.execute("DELETE FROM sample WHERE number = ?", found[:1])
        return Sample(key, tuple(json.loads(found[1])), found[2])

    def __contains__(self, key: str) -> bool:
        found = self._db.execute("SELECT 1 FROM sample WHERE key = ?", (_encode(key),))
        return found.fetchone() is not None

    def __iter__(self) -> Iterator[Sample]:
        rows = self._db.execute("SELECT key, alts, caption FROM sample ORDER BY number")
        for key, alts, caption in rows:
            yield Sample(_decode(key), tuple(json.loads(alts)), caption)

    def __len__(self) -> int:
        count: int = self._db.execute("SELECT count(*) FROM sample").fetchone()[0]
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()


def _join(before: Sequence[str], texts: Sequence[str]) -> str:
    """Alt-texts as JSON: each of them once, cut to the length that captioning reads."""
    joined = list(before)
    room = MAX_ALT_CHARS - sum(map(len, joined))
    for text in texts:
        clean = clean_text(text[: 4 * MAX_ALT_CHARS])[:room].rstrip()
        if clean and clean not in joined:
            joined.append(clean)
            room -= len(clean)
    return json.dumps(joined, ensure_ascii=False)


def _encode(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _decode(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
