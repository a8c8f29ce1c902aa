"""How a process reads shards: with the options of the run, through a spool of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from altogether_rt.data.shards.base import Shard, ShardSource
from altogether_rt.data.shards.opening import open_shard
from altogether_rt.data.shards.options import ShardOptions
from altogether_rt.data.shards.spool import SPOOL_BYTES, Spool

__all__ = ["ShardReader"]


@dataclass
class ShardReader:
    """Opens shards. It is sent to other processes; each has a spool of its own."""

    options: ShardOptions = field(default_factory=ShardOptions)
    spool_folder: Path | None = None  # None: the system's for temporary files
    spool_bytes: int = SPOOL_BYTES

    def __post_init__(self) -> None:
        self._spool: Spool | None = None

    @contextmanager
    def __call__(self, shard: Shard) -> Iterator[ShardSource]:
        """The samples of a shard, while the block runs. Errors: those of `open_shard`."""
        with open_shard(shard, self.options, self._opened()) as source:
            yield source

    def prefetch(self, shard: Shard) -> None:
        """Begin to fetch a shard that will probably be opened next."""
        self._opened().prefetch(shard)

    def _opened(self) -> Spool:
        if self._spool is None:
            self._spool = Spool(self.spool_folder, self.spool_bytes)
            # At the end of this process, a worker's too, where `atexit` calls nothing.
            Finalize(None, self._spool.close, exitpriority=1)
        return self._spool

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_spool": None}
