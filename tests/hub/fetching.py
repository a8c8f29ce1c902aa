"""What tests of downloads do: fetch, and read the one sentence of a failure."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from altogether_rt.cli.main import app
from altogether_rt.hub import obtain
from altogether_rt.hub.cache import CachedModel, find_cached
from altogether_rt.hub.names import HubName, find_name
from altogether_rt.hub.obtain import Steps

__all__ = ["WEIGHTS", "Recorder", "complaint", "fetch", "name_of"]

WEIGHTS = "model.safetensors"


def name_of(text: str = "smolvlm-500m") -> HubName:
    name = find_name(text)
    assert name is not None
    return name


def fetch(text: str = "smolvlm-500m", steps: Steps | None = None) -> CachedModel:
    """Download alone, as every command does it."""
    name = name_of(text)
    return obtain._obtain_files(name, find_cached(name), steps or Steps())


def complaint(*arguments: str) -> str:
    """The one sentence of a command that fails for its user's reasons."""
    done = CliRunner().invoke(app, [*(arguments or ("bundle", "pull", "smolvlm-500m"))])
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("altogether-rt: ")]
    assert line.endswith(".")
    return line.removeprefix("altogether-rt: ")


class Recorder:
    """Keeps what a download tells of its progress."""

    def __init__(self, total: int, seen: list[tuple[int, str]]) -> None:
        self.seen = seen

    def __enter__(self) -> Any:
        return lambda count, file: self.seen.append((count, file))

    def __exit__(self, *_: object) -> None:
        pass
