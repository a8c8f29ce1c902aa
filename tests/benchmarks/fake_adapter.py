"""A contestant that writes the ids 7, 7, … and can be told to misbehave."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any


class Fake:
    encode_s = 0.0

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def caption(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        print("a library that prints to stdout")
        self.encode_s += 0.25
        kind = self.options.get("kind")
        if kind == "dies":
            os._exit(3)
        if kind == "hangs":
            time.sleep(60)
        if kind == "short":
            return [[7]] * len(rows)
        return [[7] * row.caption_tokens for row in rows]

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return [[len(mode)] * row.caption_tokens for row in rows]


def load(options: dict[str, Any], threads: int) -> Fake:
    if options.get("kind") == "broken":
        raise ValueError("no such weights")
    return Fake({**options, "threads": threads})
