"""Claims: which process is captioning a shard, and what became of those before it.

A claim is a file beside the parts, made exclusively and renewed while its owner lives. One that was
not renewed for a while, or whose process is gone from this machine, is stale: its owner died. The
next owner learns from it how far that one came, and goes on more carefully.

A claim saves work; no result depends on it. Two processes that both believe to have a shard write
the same rows, and one of them finds the other's statistics there when it is done.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from altogether_rt.data.sinks.shards.store import OutputStore

__all__ = [
    "LEASE_S",
    "Claim",
    "ClaimRecord",
    "ProcessId",
    "read_claim",
    "take_claim",
    "this_process",
]

#: Seconds without renewal after which the owner is taken for dead, and between two renewals.
LEASE_S = 120.0
_RENEWAL_S = 20.0

#: Seconds after which of several processes that took a stale claim the last one has it.
_SETTLING_S = 0.05


class ProcessId(NamedTuple):
    """A process, wherever it is and whether or not it still runs."""

    host: str
    boot: str  # of the host, this time
    pid: int
    started: int  # in the kernel's ticks


def this_process() -> ProcessId:
    """The process that asks."""
    pid = os.getpid()
    return ProcessId(socket.gethostname(), _boot_id(), pid, _started(pid) or 0)


@dataclass(frozen=True)
class ClaimRecord:
    """What a claim says."""

    token: str  # of the owner
    host: str
    boot: str  # of the host, this time
    pid: int
    started: int  # when the process started, in the kernel's ticks
    renewed: float  # seconds since 1970
    rows: int = 0  # that were durable when the owner began
    care: int = 0  # how carefully it proceeds: 0, 1, 2
    alone: int | None = None  # number of the sample that it is captioning, and no other
    answered: bool = False  # that sample has its answer, which is being made durable
    deaths: int = 0  # of owners before it, one after another, that made no row durable
    alone_deaths: int = 0  # of owners before it over the same sample alone

    @property
    def owner(self) -> ProcessId:
        """The process that made the claim."""
        return ProcessId(self.host, self.boot, self.pid, self.started)

    @property
    def is_stale(self) -> bool:
        """Whether the owner is dead, as far as can be told from here."""
        if self.host == socket.gethostname() and self.boot == _boot_id():
            return _started(self.pid) != self.started
        return abs(time.time() - self.renewed) > LEASE_S


class Claim:
    """A shard that is this process's own; a context manager that gives it back.

    It is kept, for its successor to find, if the block is left by the death of the process alone.
    """

    def __init__(self, store: OutputStore, name: str, record: ClaimRecord) -> None:
        self._store = store
        self._name = name
        self.record = record
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)

    def update(self, **changes: Any) -> None:
        """Change what the claim says. Raises OSError."""
        with self._lock:
            self.record = dataclasses.replace(self.record, renewed=time.time(), **changes)
            self._store.write(self._name, _encode(self.record))

    def is_held(self) -> bool:
        """Whether the claim is still this process's: another may have taken it for dead."""
        found = read_claim(self._store, self._name)
        return found is not None and found.token == self.record.token

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()
        with suppress(OSError):
            if self.is_held():
                self._store.remove([self._name])

    def _renew(self) -> None:
        while not self._left.wait(_RENEWAL_S):
            with suppress(OSError):  # a store that fails now may not fail in a while
                if not self.is_held():
                    return
                self.update()


def read_claim(store: OutputStore, name: str) -> ClaimRecord | None:
    """The claim at `name`; None if there is none, or it is not one."""
    data = store.read(name)
    if data is None:
        return None
    try:
        return ClaimRecord(**json.loads(data))
    except (TypeError, ValueError):
        return None


def take_claim(
    store: OutputStore, name: str, died: Collection[ProcessId] = ()
) -> tuple[Claim, ClaimRecord | None] | None:
    """Claim a shard: the claim, and that of the process that died with it, if one did.

    died: processes that are known to be dead, on any machine: their claims are stale at once.
    None if the shard belongs to a process that lives. Raises OSError.
    """
    record = ClaimRecord(secrets.token_hex(8), *this_process(), renewed=time.time())
    former: ClaimRecord | None = None
    if not store.create(name, _encode(record)):
        former = read_claim(store, name)
        if former is not None and former.owner not in died and not former.is_stale:
            return None
        # Replaced and not removed: should this process die now, `former` must not be forgotten.
        inherited = former or record
        record = dataclasses.replace(
            record,
            rows=inherited.rows,
            care=inherited.care,
            deaths=inherited.deaths,
            alone_deaths=inherited.alone_deaths,
        )
        store.write(name, _encode(record))
        time.sleep(_SETTLING_S)
    claim = Claim(store, name, record)
    return (claim, former) if former is None or claim.is_held() else None


def _encode(record: ClaimRecord) -> bytes:
    return json.dumps(dataclasses.asdict(record)).encode()


@cache
def _boot_id() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _started(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; None if it is not there, or dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
