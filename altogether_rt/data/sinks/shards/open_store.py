"""Which kind of store a path or a URL names."""

from __future__ import annotations

from pathlib import Path

from altogether_rt.data.sinks.shards.objects import ObjectStore
from altogether_rt.data.sinks.shards.store import LocalStore, OutputStore
from altogether_rt.errors import AltogetherError

__all__ = ["open_store"]


def open_store(url: str | Path) -> OutputStore:
    """The store at a path or a URL. Raises AltogetherError if the path is a file."""
    if "://" in str(url):
        return ObjectStore(str(url))
    path = Path(url)
    if path.exists() and not path.is_dir():
        raise AltogetherError(
            f"{path} is a file: shards have a file of captions each, so --out must name a folder."
        )
    return LocalStore(path)
