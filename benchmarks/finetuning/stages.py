"""Stages of a long run: what is done is kept, and each says what is left."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from altogether_rt.artifacts.files import append_to, write_whole

__all__ = ["Stages", "clock"]

_SECONDS_BETWEEN_LOADS = 15.0


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class Stages:
    """Does the stages of a run that are not done yet.

    The result of a stage is a file or a folder of `work`, whole or absent. How long each took is
    in `work/stages.jsonl`, with the load of the machine.
    """

    def __init__(self, work: Path, planned: Mapping[str, float]) -> None:
        """planned: minutes that each stage takes by itself on two cores, in order."""
        self._work = work
        self._planned = planned
        self._left = dict(planned)
        self._took = self._expected = 0.0  # minutes of the stages that this process did

    def do(self, name: str, path: Path, make: Callable[[], object]) -> Path:
        """Call `make`, which makes `path` whole, unless it is there."""
        minutes = self._left.pop(name)
        title = f"[{len(self._planned) - len(self._left)}/{len(self._planned)}] {name}"
        if path.exists():
            print(f"{title}: kept, {path.name}", flush=True)
            return path
        pace = self._took / self._expected if self._expected > 1 else 1.0
        left = pace * (minutes + sum(self._left.values()))
        print(f"{title} …  about {clock(60 * left)} left in all", flush=True)
        with self._measured(name):
            make()
        self._expected += minutes
        return path

    def folder(self, name: str, path: Path, write: Callable[[Path], object]) -> Path:
        """`path`, a folder that `write` makes at another name first."""
        new = path.with_name(f"{path.name}.new")

        def make() -> None:
            shutil.rmtree(new, ignore_errors=True)
            write(new)
            new.rename(path)

        return self.do(name, path, make)

    def data(self, name: str, path: Path, find: Callable[[], Any]) -> Any:
        """What `find` returned, kept as JSON."""
        self.do(name, path, lambda: write_whole(path, json.dumps(find(), ensure_ascii=False)))
        return json.loads(path.read_text("utf-8"))

    def history(self) -> dict[str, dict[str, float]]:
        """By stage: minutes, of all processes that worked on it, and the mean load meanwhile."""
        found: dict[str, dict[str, float]] = {}
        path = self._work / "stages.jsonl"
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            row = json.loads(line)
            before = found.get(row["stage"], {"minutes": 0.0, "load": 0.0})
            minutes = before["minutes"] + row["minutes"]
            load = before["load"] * before["minutes"] + row["load"] * row["minutes"]
            found[row["stage"]] = {"minutes": minutes, "load": load / minutes}
        rounded = {
            name: {key: round(value, 2) for key, value in row.items()}
            for name, row in found.items()
        }
        return {name: rounded[name] for name in self._planned if name in rounded}

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        loads = [os.getloadavg()[0]]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_SECONDS_BETWEEN_LOADS):
                loads.append(os.getloadavg()[0])

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.monotonic()
        try:
            yield
        finally:
            ended.set()
            minutes = max((time.monotonic() - start) / 60, 1e-4)
            self._took += minutes
            row = {"stage": name, "minutes": minutes, "load": sum(loads) / len(loads)}
            with append_to(self._work / "stages.jsonl") as file:
                file.write((json.dumps(row) + "\n").encode())
            print(f"  {clock(60 * minutes)}", flush=True)
