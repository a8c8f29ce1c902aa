"""Reads the JSON files of strangers: of bounded size and depth, every key once, finite numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NoReturn

__all__ = ["parse_json", "read_json_file"]

_MAX_DEPTH: Final = 64


def read_json_file(path: Path, max_bytes: int) -> Any:
    """The value in a file of at most `max_bytes`.

    Raises OSError if it cannot be read, ValueError for anything but plain JSON of that size.
    """
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return parse_json(data)


def parse_json(data: bytes) -> Any:
    """The value in JSON text, in UTF-8. Raises ValueError.

    NaN and infinity, which JSON does not have, and a key given twice, which readers understand in
    different ways, are refused; and so is what is nested so deeply that writing it again fails.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_table)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_depth(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it has the number {constant}")


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("it has a key twice")
    return table


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
