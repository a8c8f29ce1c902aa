"""A contestant that writes the ids 7, 7, … and can be told to misbehave."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from harness.adapter import Adapter, Unavailable


class Fake(Adapter):  # type: ignore[misc]  # the scripts are not type-checked
    """options: kind `dies`, `crashes`, `hangs`, `short`, `broken`, `unavailable`, `memory` (too
    little for batches of more than `room` rows); log: a file that gets a line for each call."""

    def prepare(self, options: dict[str, Any]) -> None:
        if options.get("kind") == "unavailable":
            raise Unavailable("there is no such device")

    def load(self, options: dict[str, Any], threads: int | None) -> dict[str, Any]:
        if options.get("kind") == "broken":
            raise ValueError("no such weights")
        self.options = {**options, "threads": threads}
        self._say(f"load {os.getpid()}")
        if options.get("slots", 0) > options.get("max_slots", 1000):
            raise RuntimeError("CUDA out of memory.")
        return {}

    def check(self) -> dict[str, Any]:
        return self.options.get("check", {})

    def run(self, rows: Sequence[Any], batch: int) -> list[list[int]]:
        print("a library that prints to stdout")
        self._say(f"run {len(rows)}")
        self.encode_s += 0.25
        kind = self.options.get("kind")
        if kind == "dies":
            os._exit(3)
        if kind == "crashes":
            print("the GPU is gone", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 11)
        if kind == "hangs":
            time.sleep(60)
        if kind == "short":
            return [[7]] * len(rows)
        if kind == "memory" and len(rows) > self.options["room"]:
            raise RuntimeError("CUDA out of memory.")
        return [[7] * row.caption_tokens for row in rows]

    def tokens(self, rows: Sequence[Any], mode: str) -> list[list[int]]:
        return [[len(mode)] * row.caption_tokens for row in rows]

    def stages(self, rows: Sequence[Any]) -> dict[str, Any]:
        return {"tokens_per_s": 100.0 * len(rows)}

    def close(self) -> None:
        self._say("close")

    def _say(self, line: str) -> None:
        if "log" in self.options:
            with open(self.options["log"], "a") as file:
                file.write(line + "\n")
