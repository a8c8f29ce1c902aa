"""What Linux says of the processor."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CPUINFO", "read_cpuinfo"]

CPUINFO = Path("/proc/cpuinfo")


def read_cpuinfo(path: Path = CPUINFO) -> dict[str, str]:
    """Values of the first core by name, in lower case; empty where the system does not tell."""
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return {}
    values: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        values.setdefault(key.strip().lower(), value.strip())
    return values
