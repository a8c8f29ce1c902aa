"""Keys of the rows of a table, which may have one key many times, or none."""

from __future__ import annotations

__all__ = ["RowKey", "UniqueKeys", "text_of_bytes"]


def text_of_bytes(key: bytes) -> str:
    """A key that its writer did not say to be a text: a text in UTF-8, or a digest."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key.hex()


class RowKey:
    """A row's key, and that of which it is a duplicate."""

    __slots__ = ("duplicate_of", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.duplicate_of: str | None = None


class UniqueKeys:
    """Makes keys unique: one that comes again is `img#2`.

    It holds hashes, as there may be millions of keys; all rows of a file may have the same one.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._numbers: dict[int, int] = {}  # the last one that a repeated key was given

    def unique(self, key: RowKey) -> str:
        """The key's text, changed if it came before."""
        own = hash(key.text)
        if own in self._seen:
            key.duplicate_of = key.text
            number = self._numbers.get(own, 1) + 1
            while hash(f"{key.duplicate_of}#{number}") in self._seen:
                number += 1
            self._numbers[own] = number
            key.text = f"{key.duplicate_of}#{number}"
        self._seen.add(hash(key.text))
        return key.text
