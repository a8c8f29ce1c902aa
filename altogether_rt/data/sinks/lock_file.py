"""A lock for file systems that have none: a file that is created exclusively and names its writer.

A process that is killed leaves it. It is taken over if the process it names ran on this machine and
is gone; a process of another machine cannot be seen, so its lock is believed.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from altogether_rt.errors import AltogetherError

__all__ = ["LockFile"]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Seconds after which two that take over the same lock at once see which of them has it.
_SETTLE_S: Final = 0.05


class LockFile:
    """OUT.lock while this process writes OUT; `release` removes it."""

    def __init__(self, output: Path) -> None:
        """Raises AltogetherError if another process has the lock, or a file of others is there."""
        self.path = Path(f"{output}.lock")
        self._output = output
        self._content = json.dumps({**_this_process(), "token": secrets.token_hex(8)}).encode()
        if not self._create():
            self._take_over()

    def release(self) -> None:
        """Remove the lock if it is still this process's."""
        if self._read() == self._content:
            self.path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Whether there was no lock."""
        try:
            descriptor = os.open(self.path, _CREATE, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._content)
        return True

    def _take_over(self) -> None:
        held = self._read()
        owner = _owner(held)
        if owner is None:
            raise AltogetherError(
                f"{self.path} is there, and no run of altogether-rt left it: remove it, or choose "
                "another file."
            )
        if owner["host"] != platform.node() or _is_running(owner):
            raise AltogetherError(
                f"another run is writing {self._output} (process {owner['pid']} on "
                f"{owner['host']}): wait for it, or remove {self.path} if it is gone."
            )
        if self._read() == held:
            self.path.unlink(missing_ok=True)
        if not self._create():
            raise self._lost()
        time.sleep(_SETTLE_S)
        if self._read() != self._content:
            raise self._lost()

    def _lost(self) -> AltogetherError:
        return AltogetherError(
            f"another run has just begun to write {self._output}: wait for it, or choose another "
            "file."
        )

    def _read(self) -> bytes:
        """What the lock says; nothing if it is not a file or is gone."""
        with suppress(OSError):
            descriptor = os.open(self.path, _READ)
            with os.fdopen(descriptor, "rb") as file:
                return file.read(1024)
        return b""


def _owner(content: bytes) -> dict[str, Any] | None:
    """The process that a lock names; None if it is not a lock."""
    try:
        owner = json.loads(content)
    except ValueError:
        return None
    kinds = {"host": str, "pid": int, "started": str, "token": str}
    is_lock = isinstance(owner, dict) and all(
        isinstance(owner.get(key), kind) for key, kind in kinds.items()
    )
    return owner if is_lock else None


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "pid": pid, "started": _start_of(pid)}


def _is_running(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs; another one may have got its number."""
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # it belongs to another user
    return _start_of(owner["pid"]) == str(owner["started"])


def _start_of(pid: int) -> str:
    """When a process was started, in the kernel's clock; "" where that cannot be read."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if len(fields) > 19 else ""  # field 22 of proc(5), after pid and name
