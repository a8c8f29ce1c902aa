"""How many cores and how much memory this process may use.

A container usually sees the whole machine's processors and memory and may use a part of them: the
part is what its control groups (cgroups) say, versions 1 and 2, each group within those above it.
Sources: cgroups(7); the kernel's documentation, admin-guide/cgroup-v1/memory, scheduler/sched-bwc
and admin-guide/cgroup-v2.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["MachineLimits", "available_cores", "available_memory", "read_limits"]

#: Version 1 says "no limit" with the largest number of whole pages below 2**63.
_NO_LIMIT_BYTES: Final = 1 << 62


@dataclass(frozen=True)
class MachineLimits:
    """What the machine has, and what of it this process may use."""

    num_processors: int
    num_affine: int  # processors on which this process may be scheduled
    quota: float | None  # processors' time it may use, 1.5 for example; None: not limited
    total_memory_bytes: int | None  # of the machine; None: not known
    memory_limit_bytes: int | None  # None: not limited

    @property
    def cores(self) -> int:
        """Threads that can run at once, at least 1; a part of a processor counts as one."""
        quota = self.num_affine if self.quota is None else math.ceil(self.quota)
        return max(1, min(self.num_affine, quota))

    @property
    def memory_bytes(self) -> int | None:
        """Memory that this process may use with all others in its group; None: not known."""
        known = [
            limit
            for limit in (self.total_memory_bytes, self.memory_limit_bytes)
            if limit is not None
        ]
        return min(known, default=None)


def available_cores() -> int:
    """Number of threads that are worth starting."""
    return read_limits().cores


def available_memory() -> int | None:
    """Bytes of memory that this process may use; None if the system does not say."""
    return read_limits().memory_bytes


def read_limits(
    proc: Path = Path("/proc"), default_root: Path = Path("/sys/fs/cgroup")
) -> MachineLimits:
    """The limits now; a container's may be changed while it runs.

    default_root: where cgroups are, if the list of mounts does not say. Whatever cannot be read
    limits nothing.
    """
    num_processors = os.cpu_count() or 1
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else num_processors
    quotas: list[float] = []
    memory: list[int] = []
    for group in _groups(proc, default_root):
        quotas += _quotas(group)
        memory += _memory_limits(group)
    return MachineLimits(
        num_processors,
        affine,
        min(quotas, default=None),
        _total_memory(proc),
        min(memory, default=None),
    )


def _groups(proc: Path, default_root: Path) -> Iterator[Path]:
    """Folders of this process' groups and of the groups above them, as far as they are visible."""
    memberships = _memberships(proc)
    mounts = list(_mounts(proc)) or [
        (default_root, "/", frozenset({""})),
        *(
            (default_root / name, "/", frozenset({name}))
            for name in ("cpu", "cpu,cpuacct", "memory")
        ),
    ]
    for mount, root, controllers in mounts:
        for controller in controllers:
            within = _relative(memberships.get(controller, "/"), root)
            yield mount
            for depth in range(1, len(within.parts) + 1):
                yield mount.joinpath(*within.parts[:depth])


def _memberships(proc: Path) -> dict[str, str]:
    """The path of this process' group by controller; "" is version 2."""
    found = {}
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _mounts(proc: Path) -> Iterator[tuple[Path, str, frozenset[str]]]:
    """(folder, group that is mounted there, controllers) of each hierarchy."""
    for line in _read(proc / "self" / "mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        columns, kind = fields.split(), rest.split()
        if len(columns) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        names = {""} if kind[0] == "cgroup2" else {"cpu", "memory"} & set(kind[2].split(","))
        if names:
            yield Path(_unescaped(columns[4])), _unescaped(columns[3]), frozenset(names)


def _unescaped(text: str) -> str:
    """Mounts write a space as `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _relative(path: str, root: str) -> PurePosixPath:
    """A group's path below the group that is mounted; that group itself if it lies elsewhere.

    A container without a cgroup namespace sees its path from the host's root, but only its own
    group is mounted.
    """
    parts = PurePosixPath(path)
    if ".." in parts.parts:
        return PurePosixPath()
    try:
        return parts.relative_to(root)
    except ValueError:
        return PurePosixPath()


def _quotas(group: Path) -> Iterator[float]:
    words = _read(group / "cpu.max").split()
    if not words:
        words = [_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2:
        quota, period = _number(words[0]), _number(words[1])
        if quota is not None and period:
            yield quota / period


def _memory_limits(group: Path) -> Iterator[int]:
    # `memory.high` is where a group is slowed down so much that it is better not reached.
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        limit = _number(_read(group / name).strip())
        if limit is not None and 0 < limit < _NO_LIMIT_BYTES:
            yield limit


def _total_memory(proc: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(proc / "meminfo"), re.MULTILINE)
    return None if found is None else int(found[1]) * 1024


def _number(word: str) -> int | None:
    """A number of at least 0; None for `max`, -1 and anything else."""
    return int(word) if re.fullmatch(r"[0-9]{1,20}", word) else None


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
